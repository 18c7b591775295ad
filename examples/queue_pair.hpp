// examples/queue_pair.hpp - a reliable connection between two processes over the first RDMA device,
// for one request at a time.
#pragma once
#include <infiniband/verbs.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

class queue_pair {
 public:
  /// What the other side has to know.
  struct address {
    std::uint32_t number;
    ibv_gid gid;
  };

  queue_pair() {
    int count = 0;
    ibv_device** const devices = ibv_get_device_list(&count);
    if (devices == nullptr) return;
    if (count > 0) context_ = ibv_open_device(devices[0]);
    ibv_free_device_list(devices);
    if (context_ == nullptr || ibv_query_port(context_, 1, &port_) != 0) return;
    domain_ = ibv_alloc_pd(context_);
    completions_ = ibv_create_cq(context_, 16, nullptr, nullptr, 0);
    // RoCE's second version has IPv4 addresses as ::ffff:a.b.c.d.
    for (int i = 0; i < port_.gid_tbl_len; ++i) {
      ibv_gid gid{};
      if (ibv_query_gid(context_, 1, i, &gid) != 0 || gid.global.interface_id == 0) continue;
      if (gid_index_ < 0 || (gid.raw[10] == 0xff && gid.raw[11] == 0xff))
        gid_index_ = i, own_gid_ = gid;
    }
    ibv_qp_init_attr attributes{};
    attributes.send_cq = attributes.recv_cq = completions_;
    attributes.qp_type = IBV_QPT_RC;
    attributes.cap = {16, 16, 2, 2, 0};
    if (domain_ != nullptr && completions_ != nullptr) pair_ = ibv_create_qp(domain_, &attributes);
  }
  ~queue_pair() {
    if (pair_ != nullptr) ibv_destroy_qp(pair_);
    if (completions_ != nullptr) ibv_destroy_cq(completions_);
    if (domain_ != nullptr) ibv_dealloc_pd(domain_);
    if (context_ != nullptr) ibv_close_device(context_);
  }
  queue_pair(const queue_pair&) = delete;
  queue_pair& operator=(const queue_pair&) = delete;

  bool has_device() const { return pair_ != nullptr && gid_index_ >= 0; }
  ibv_pd* domain() const { return domain_; }
  address self() const { return {pair_->qp_num, own_gid_}; }

  bool connect(const address& peer) {
    ibv_qp_attr a{};
    a.qp_state = IBV_QPS_INIT;
    a.port_num = 1;
    a.qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    if (ibv_modify_qp(pair_, &a,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) != 0)
      return false;
    a = {};
    a.qp_state = IBV_QPS_RTR;
    a.path_mtu = port_.active_mtu;
    a.dest_qp_num = peer.number;
    a.max_dest_rd_atomic = 1;
    a.min_rnr_timer = 12;
    a.ah_attr.is_global = 1;
    a.ah_attr.port_num = 1;
    a.ah_attr.grh.dgid = peer.gid;
    a.ah_attr.grh.sgid_index = static_cast<std::uint8_t>(gid_index_);
    a.ah_attr.grh.hop_limit = 1;
    if (ibv_modify_qp(pair_, &a,
                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) != 0)
      return false;
    a = {};
    a.qp_state = IBV_QPS_RTS;
    a.timeout = 14;
    a.retry_cnt = 7;
    a.rnr_retry = 7;
    a.max_rd_atomic = 1;
    return ibv_modify_qp(pair_, &a,
                         IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                             IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC) == 0;
  }

  /// RDMA write or read, waited for. IBV_WC_GENERAL_ERR also when patience is at its end.
  ibv_wc_status transfer(ibv_wr_opcode what, std::uint64_t here, std::uint32_t lkey,
                         std::uint64_t there, std::uint32_t rkey, std::uint32_t bytes,
                         std::chrono::milliseconds patience = std::chrono::seconds(10)) {
    ibv_sge local{here, bytes, lkey};
    ibv_send_wr request{}, *bad = nullptr;
    request.sg_list = &local;
    request.num_sge = 1;
    request.opcode = what;
    request.send_flags = IBV_SEND_SIGNALED;
    request.wr.rdma.remote_addr = there;
    request.wr.rdma.rkey = rkey;
    if (ibv_post_send(pair_, &request, &bad) != 0) return IBV_WC_GENERAL_ERR;
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (ibv_wc completion{}; std::chrono::steady_clock::now() < deadline;)
      if (const int count = ibv_poll_cq(completions_, 1, &completion); count != 0)
        return count > 0 ? completion.status : IBV_WC_GENERAL_ERR;
    return IBV_WC_GENERAL_ERR;
  }

 private:
  ibv_context* context_ = nullptr;
  ibv_pd* domain_ = nullptr;
  ibv_cq* completions_ = nullptr;
  ibv_qp* pair_ = nullptr;
  ibv_port_attr port_{};
  int gid_index_ = -1;
  ibv_gid own_gid_{};
};
