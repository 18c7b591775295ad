// platform/simulated/beneath.hpp - the real platform, under another name.
//
// The files of linux/ are compiled once more with this included first: what they define is then
// annex::os::beneath::open_file and so on, and the simulated annex::os::open_file calls it. Types
// are those of platform/*.hpp in both. Whatever linux/ calls of its own is the real one too.
#pragma once
#include "platform/byte_locks.hpp"
#include "platform/directories.hpp"
#include "platform/files.hpp"
#include "platform/libraries.hpp"
#include "platform/memory.hpp"
#include "platform/numa.hpp"
#include "platform/output.hpp"
#include "platform/pinning.hpp"
#include "platform/processes.hpp"
#include "platform/resource_limits.hpp"
#include "platform/waiting.hpp"

#define ANNEX_OS annex::os::beneath

namespace annex::os::beneath {

// byte_locks.hpp
decltype(os::hold_byte) hold_byte;
decltype(os::let_go_of_byte) let_go_of_byte;
decltype(os::is_byte_locked) is_byte_locked;
decltype(os::is_any_byte_locked) is_any_byte_locked;

// directories.hpp
decltype(os::make_directory) make_directory;
decltype(os::current_directory) current_directory;
decltype(os::open_place) open_place;
decltype(os::open_in) open_in;
decltype(os::identify_in) identify_in;
decltype(os::point_at) point_at;
decltype(os::point_at_descriptor) point_at_descriptor;
decltype(os::create_unnamed_in) create_unnamed_in;
decltype(os::create_in) create_in;
decltype(os::publish_in) publish_in;
decltype(os::remove_in) remove_in;
decltype(os::list_in) list_in;
decltype(os::is_hugetlbfs) is_hugetlbfs;

// files.hpp
decltype(os::open_file) open_file;
decltype(os::open_or_create) open_or_create;
decltype(os::create_memory_file) create_memory_file;
decltype(os::seal_length) seal_length;
decltype(os::reopen) reopen;
decltype(os::close_file) close_file;
decltype(os::close_file_if) close_file_if;
decltype(os::duplicate) duplicate;
decltype(os::set_length) set_length;
decltype(os::allocate_range) allocate_range;
decltype(os::punch_hole) punch_hole;
decltype(os::identify) identify;
decltype(os::give_file) give_file;
decltype(os::allocated_bytes) allocated_bytes;
decltype(os::is_hole) is_hole;
decltype(os::file_system_of) file_system_of;
decltype(os::mount_point_of) mount_point_of;
decltype(os::path_of) path_of;

// libraries.hpp
decltype(os::first_symbol) first_symbol;
decltype(os::next_symbol) next_symbol;
decltype(os::loaded_library) loaded_library;
decltype(os::symbol_of) symbol_of;

// memory.hpp
decltype(os::page_bytes) page_bytes;
decltype(os::map_file) map_file;
decltype(os::map_file_again) map_file_again;
decltype(os::forbid_writing) forbid_writing;
decltype(os::map_anonymous) map_anonymous;
decltype(os::reserve) reserve;
decltype(os::map_own_pages) map_own_pages;
decltype(os::unmap) unmap;
decltype(os::hide_from_leak_search) hide_from_leak_search;
decltype(os::populate) populate;
decltype(os::check_mapping) check_mapping;
decltype(os::for_each_mapped) for_each_mapped;
decltype(os::transparent_page_bytes) transparent_page_bytes;
decltype(os::transparent_settings_of_machine) transparent_settings_of_machine;
decltype(os::advise_huge) advise_huge;
decltype(os::make_huge) make_huge;
decltype(os::for_each_mapping_pages) for_each_mapping_pages;

// numa.hpp
decltype(os::node_count) node_count;
decltype(os::bind_to_node) bind_to_node;
decltype(os::find_off_node) find_off_node;
decltype(os::free_on_node) free_on_node;
decltype(os::free_memory) free_memory;
decltype(os::hugepages_of) hugepages_of;
decltype(os::facts_of_device) facts_of_device;

// output.hpp
decltype(os::open_output) open_output;
decltype(os::write_output) write_output;

// pinning.hpp
decltype(os::pin) pin;
decltype(os::unpin) unpin;
decltype(os::physical_runs) physical_runs;

// processes.hpp
decltype(os::process_id) process_id;
decltype(os::user_id) user_id;
decltype(os::program_name) program_name;
decltype(os::environment) environment;
decltype(os::random_number) random_number;
decltype(os::start_time) start_time;
decltype(os::owner_of_process) owner_of_process;
decltype(os::at_fork) at_fork;
decltype(os::fork_count) fork_count;
decltype(os::thread_id) thread_id;
decltype(os::thread_exists) thread_exists;
decltype(os::at_end_of_this_thread) at_end_of_this_thread;
decltype(os::keep_signals_away) keep_signals_away;
decltype(os::prepare_process_barrier) prepare_process_barrier;
decltype(os::process_barrier) process_barrier;

// resource_limits.hpp
decltype(os::locked_memory_limit) locked_memory_limit;
decltype(os::file_size_limit) file_size_limit;
decltype(os::descriptor_limit) descriptor_limit;
decltype(os::address_space_limit) address_space_limit;

// waiting.hpp
decltype(os::now_ns) now_ns;
decltype(os::yield) yield;
decltype(os::sleep_ns) sleep_ns;
decltype(os::wait_on) wait_on;
decltype(os::wake_all) wake_all;
decltype(os::wake_one) wake_one;
decltype(os::open_event) open_event;
decltype(os::signal_event) signal_event;
decltype(os::clear_event) clear_event;

}  // namespace annex::os::beneath
