// torture/visible.cpp - see visible.hpp.
#include "visible.hpp"

#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

namespace annex::torture {
namespace {

std::uint64_t value_of(int decoders_register, const user_regs_struct& r) {
  switch (decoders_register) {
    case ZYDIS_REGISTER_NONE: return 0;
    case ZYDIS_REGISTER_RAX: return r.rax;
    case ZYDIS_REGISTER_RCX: return r.rcx;
    case ZYDIS_REGISTER_RDX: return r.rdx;
    case ZYDIS_REGISTER_RBX: return r.rbx;
    case ZYDIS_REGISTER_RSP: return r.rsp;
    case ZYDIS_REGISTER_RBP: return r.rbp;
    case ZYDIS_REGISTER_RSI: return r.rsi;
    case ZYDIS_REGISTER_RDI: return r.rdi;
    case ZYDIS_REGISTER_R8: return r.r8;
    case ZYDIS_REGISTER_R9: return r.r9;
    case ZYDIS_REGISTER_R10: return r.r10;
    case ZYDIS_REGISTER_R11: return r.r11;
    case ZYDIS_REGISTER_R12: return r.r12;
    case ZYDIS_REGISTER_R13: return r.r13;
    case ZYDIS_REGISTER_R14: return r.r14;
    case ZYDIS_REGISTER_R15: return r.r15;
    default: return 0;
  }
}
bool is_known(int decoders_register) {
  return decoders_register == ZYDIS_REGISTER_NONE ||
         (decoders_register >= ZYDIS_REGISTER_RAX && decoders_register <= ZYDIS_REGISTER_R15);
}

}  // namespace

const visibility::instruction& visibility::decode(std::uint64_t address) {
  const auto [found, is_new] = decoded_.try_emplace(address);
  instruction& known = found->second;
  if (!is_new) return known;
  ZydisDecoder decoder;
  ZydisDecodedInstruction what;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  // Nothing longer is read than the instruction has: the mapping goes on, code does not end it.
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, reinterpret_cast<const void*>(address),
                                           ZYDIS_MAX_INSTRUCTION_LENGTH, &what, operands))) {
    known.always = true;
    return known;
  }
  known.calls_kernel = known.always = what.mnemonic == ZYDIS_MNEMONIC_SYSCALL;
  for (int i = 0; i < what.operand_count; ++i) {
    const ZydisDecodedOperand& o = operands[i];
    if (o.type != ZYDIS_OPERAND_TYPE_MEMORY || (o.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) == 0)
      continue;
    store s{o.mem.base, o.mem.index, o.mem.scale, o.mem.segment == ZYDIS_REGISTER_FS,
            o.mem.disp.has_displacement ? o.mem.disp.value : 0};
    if (o.mem.base == ZYDIS_REGISTER_RIP) {
      s.base = ZYDIS_REGISTER_NONE;
      s.displacement += static_cast<std::int64_t>(address + what.length);
    }
    if (o.mem.type != ZYDIS_MEMOP_TYPE_MEM || o.mem.segment == ZYDIS_REGISTER_GS ||
        !is_known(s.base) || !is_known(s.index))
      known.always = true;
    known.stores.push_back(s);
  }
  return known;
}

bool visibility::is_visible(const user_regs_struct& registers) {
  const instruction& next = decode(registers.rip);
  if (next.calls_kernel) stale_ = true;
  if (next.always) return true;
  return std::any_of(next.stores.begin(), next.stores.end(), [&](const store& s) {
    const std::uint64_t address =
        value_of(s.base, registers) + value_of(s.index, registers) * s.scale +
        static_cast<std::uint64_t>(s.displacement) + (s.is_thread_local ? registers.fs_base : 0);
    if (stale_) read_mappings();
    return is_shared(address);
  });
}

bool visibility::is_shared(std::uint64_t address) const {
  const auto after = std::upper_bound(private_.begin(), private_.end(), address,
                                      [](std::uint64_t a, const range& r) { return a < r.end; });
  return after == private_.end() || address < after->begin;
}

void visibility::read_mappings() {
  stale_ = false;
  private_.clear();
  std::ifstream maps(fmt::format("/proc/{}/maps", process_));
  for (std::string line; std::getline(maps, line);) {
    range r{};
    char access[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &r.begin, &r.end, access) == 3 && access[3] == 'p')
      private_.push_back(r);
  }
}

}  // namespace annex::torture
