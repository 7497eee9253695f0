// abi.h against the kernel's own header. UBLK_HAVE_UAPI: the build was given one (UBLK_UAPI_DIR).
#include "node/ublk/abi.h"

#include <gtest/gtest.h>

#include "node/ublk/device.h"

#ifdef UBLK_HAVE_UAPI
#include <linux/ublk_cmd.h>

namespace ublk_operator {
namespace {

// A constant of ours and the kernel's must agree in value.
#define SAME(ours, theirs)                                                       \
  EXPECT_EQ(static_cast<uint64_t>(ours), static_cast<uint64_t>(theirs)) << #ours \
      " is "                                                                     \
      "not " #theirs
// ... a member of ours and the kernel's in place and size.
#define SAME_MEMBER(ours, theirs, our_member, their_member)             \
  EXPECT_EQ(offsetof(ours, our_member), offsetof(theirs, their_member)) \
      << #theirs "." #their_member;                                     \
  EXPECT_EQ(sizeof(ours::our_member), sizeof(theirs::their_member)) << #theirs "." #their_member
#define SAME_SIZE(ours, theirs) EXPECT_EQ(sizeof(ours), sizeof(struct theirs)) << #theirs

TEST(AbiTest, CommandsAreTheKernels) {
  SAME(abi::get_queue_affinity, UBLK_U_CMD_GET_QUEUE_AFFINITY);
  SAME(abi::get_dev_info, UBLK_U_CMD_GET_DEV_INFO);
  SAME(abi::add_dev, UBLK_U_CMD_ADD_DEV);
  SAME(abi::del_dev, UBLK_U_CMD_DEL_DEV);
  SAME(abi::start_dev, UBLK_U_CMD_START_DEV);
  SAME(abi::stop_dev, UBLK_U_CMD_STOP_DEV);
  SAME(abi::set_params, UBLK_U_CMD_SET_PARAMS);
  SAME(abi::get_params, UBLK_U_CMD_GET_PARAMS);
  SAME(abi::start_user_recovery, UBLK_U_CMD_START_USER_RECOVERY);
  SAME(abi::end_user_recovery, UBLK_U_CMD_END_USER_RECOVERY);
  SAME(abi::get_dev_info2, UBLK_U_CMD_GET_DEV_INFO2);
  SAME(abi::get_features, UBLK_U_CMD_GET_FEATURES);
  SAME(abi::del_dev_async, UBLK_U_CMD_DEL_DEV_ASYNC);
  SAME(abi::update_size, UBLK_U_CMD_UPDATE_SIZE);
  SAME(abi::quiesce_dev, UBLK_U_CMD_QUIESCE_DEV);
  SAME(abi::try_stop_dev, UBLK_U_CMD_TRY_STOP_DEV);
  SAME(abi::reg_buf, UBLK_U_CMD_REG_BUF);
  SAME(abi::unreg_buf, UBLK_U_CMD_UNREG_BUF);
  SAME(abi::io_fetch_req, UBLK_U_IO_FETCH_REQ);
  SAME(abi::io_commit_and_fetch_req, UBLK_U_IO_COMMIT_AND_FETCH_REQ);
  SAME(abi::io_need_get_data, UBLK_U_IO_NEED_GET_DATA);
  SAME(abi::io_register_io_buf, UBLK_U_IO_REGISTER_IO_BUF);
  SAME(abi::io_unregister_io_buf, UBLK_U_IO_UNREGISTER_IO_BUF);
  SAME(abi::io_prep_io_cmds, UBLK_U_IO_PREP_IO_CMDS);
  SAME(abi::io_commit_io_cmds, UBLK_U_IO_COMMIT_IO_CMDS);
  SAME(abi::io_fetch_io_cmds, UBLK_U_IO_FETCH_IO_CMDS);
  SAME(abi::features_len, UBLK_FEATURES_LEN);
}

TEST(AbiTest, FeatureFlagsAreTheKernels) {
  SAME(flags::supports_zero_copy, UBLK_F_SUPPORT_ZERO_COPY);
  SAME(flags::complete_in_task, UBLK_F_URING_CMD_COMP_IN_TASK);
  SAME(flags::need_get_data, UBLK_F_NEED_GET_DATA);
  SAME(flags::user_recovery, UBLK_F_USER_RECOVERY);
  SAME(flags::user_recovery_reissue, UBLK_F_USER_RECOVERY_REISSUE);
  SAME(flags::unprivileged, UBLK_F_UNPRIVILEGED_DEV);
  SAME(flags::ioctl_encode, UBLK_F_CMD_IOCTL_ENCODE);
  SAME(flags::user_copy, UBLK_F_USER_COPY);
  SAME(flags::zoned, UBLK_F_ZONED);
  SAME(flags::user_recovery_fail_io, UBLK_F_USER_RECOVERY_FAIL_IO);
  SAME(flags::update_size, UBLK_F_UPDATE_SIZE);
  SAME(flags::auto_buf_reg, UBLK_F_AUTO_BUF_REG);
  SAME(flags::quiesce, UBLK_F_QUIESCE);
  SAME(flags::per_io_daemon, UBLK_F_PER_IO_DAEMON);
  SAME(flags::buf_reg_off_daemon, UBLK_F_BUF_REG_OFF_DAEMON);
  SAME(flags::batch_io, UBLK_F_BATCH_IO);
  SAME(flags::integrity, UBLK_F_INTEGRITY);
  SAME(flags::safe_stop_dev, UBLK_F_SAFE_STOP_DEV);
  SAME(flags::no_auto_part_scan, UBLK_F_NO_AUTO_PART_SCAN);
  SAME(flags::shmem_zero_copy, UBLK_F_SHMEM_ZC);
}

TEST(AbiTest, OtherConstantsAreTheKernels) {
  SAME(DeviceState::dead, UBLK_S_DEV_DEAD);
  SAME(DeviceState::live, UBLK_S_DEV_LIVE);
  SAME(DeviceState::quiesced, UBLK_S_DEV_QUIESCED);
  SAME(DeviceState::fail_io, UBLK_S_DEV_FAIL_IO);
  SAME(abi::attr::read_only, UBLK_ATTR_READ_ONLY);
  SAME(abi::attr::rotational, UBLK_ATTR_ROTATIONAL);
  SAME(abi::attr::volatile_cache, UBLK_ATTR_VOLATILE_CACHE);
  SAME(abi::attr::fua, UBLK_ATTR_FUA);
  SAME(abi::param::basic, UBLK_PARAM_TYPE_BASIC);
  SAME(abi::param::discard, UBLK_PARAM_TYPE_DISCARD);
  SAME(abi::param::devt, UBLK_PARAM_TYPE_DEVT);
  SAME(abi::param::zoned, UBLK_PARAM_TYPE_ZONED);
  SAME(abi::param::dma_align, UBLK_PARAM_TYPE_DMA_ALIGN);
  SAME(abi::param::segment, UBLK_PARAM_TYPE_SEGMENT);
  SAME(abi::param::integrity, UBLK_PARAM_TYPE_INTEGRITY);
  SAME(abi::segment_bytes_min, UBLK_MIN_SEGMENT_SIZE);
  SAME(abi::IoOp::read, UBLK_IO_OP_READ);
  SAME(abi::IoOp::write, UBLK_IO_OP_WRITE);
  SAME(abi::IoOp::flush, UBLK_IO_OP_FLUSH);
  SAME(abi::IoOp::discard, UBLK_IO_OP_DISCARD);
  SAME(abi::IoOp::write_same, UBLK_IO_OP_WRITE_SAME);
  SAME(abi::IoOp::write_zeroes, UBLK_IO_OP_WRITE_ZEROES);
  SAME(abi::IoOp::zone_open, UBLK_IO_OP_ZONE_OPEN);
  SAME(abi::IoOp::zone_close, UBLK_IO_OP_ZONE_CLOSE);
  SAME(abi::IoOp::zone_finish, UBLK_IO_OP_ZONE_FINISH);
  SAME(abi::IoOp::zone_append, UBLK_IO_OP_ZONE_APPEND);
  SAME(abi::IoOp::zone_reset_all, UBLK_IO_OP_ZONE_RESET_ALL);
  SAME(abi::IoOp::zone_reset, UBLK_IO_OP_ZONE_RESET);
  SAME(abi::IoOp::report_zones, UBLK_IO_OP_REPORT_ZONES);
  SAME(abi::io_flag::failfast_dev, UBLK_IO_F_FAILFAST_DEV);
  SAME(abi::io_flag::failfast_transport, UBLK_IO_F_FAILFAST_TRANSPORT);
  SAME(abi::io_flag::failfast_driver, UBLK_IO_F_FAILFAST_DRIVER);
  SAME(abi::io_flag::meta, UBLK_IO_F_META);
  SAME(abi::io_flag::fua, UBLK_IO_F_FUA);
  SAME(abi::io_flag::no_unmap, UBLK_IO_F_NOUNMAP);
  SAME(abi::io_flag::swap, UBLK_IO_F_SWAP);
  SAME(abi::io_flag::need_reg_buf, UBLK_IO_F_NEED_REG_BUF);
  SAME(abi::io_flag::integrity, UBLK_IO_F_INTEGRITY);
  SAME(abi::io_flag::shmem_zero_copy, UBLK_IO_F_SHMEM_ZC);
  SAME(abi::io_res_ok, UBLK_IO_RES_OK);
  SAME(abi::io_res_need_get_data, UBLK_IO_RES_NEED_GET_DATA);
  SAME(abi::io_res_abort, UBLK_IO_RES_ABORT);
  SAME(abi::cmd_buf_offset, UBLKSRV_CMD_BUF_OFFSET);
  SAME(abi::io_buf_offset, UBLKSRV_IO_BUF_OFFSET);
  SAME(abi::queue_depth_max, UBLK_MAX_QUEUE_DEPTH);
  SAME(abi::queues_max, UBLK_MAX_NR_QUEUES);
  SAME(abi::io_buf_bits, UBLK_IO_BUF_BITS);
  SAME(abi::tag_shift, UBLK_TAG_OFF);
  SAME(abi::tag_bits, UBLK_TAG_BITS);
  SAME(abi::queue_shift, UBLK_QID_OFF);
  SAME(abi::queue_bits, UBLK_QID_BITS);
  SAME(abi::integrity_flag, UBLKSRV_IO_INTEGRITY_FLAG);
  SAME(abi::auto_buf_reg_fallback, UBLK_AUTO_BUF_REG_FALLBACK);
  SAME(abi::batch::has_zone_lba, UBLK_BATCH_F_HAS_ZONE_LBA);
  SAME(abi::batch::has_buf_addr, UBLK_BATCH_F_HAS_BUF_ADDR);
  SAME(abi::batch::auto_buf_reg_fallback, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK);
  SAME(abi::shmem_buf_read_only, UBLK_SHMEM_BUF_READ_ONLY);
}

TEST(AbiTest, EncodedAddressesAreTheKernels) {
  const ublk_auto_buf_reg reg{7, UBLK_AUTO_BUF_REG_FALLBACK, 0, 0};
  EXPECT_EQ(abi::auto_buf_reg_addr(7, abi::auto_buf_reg_fallback),
            ublk_auto_buf_reg_to_sqe_addr(&reg));
  const uint64_t addr = ublk_shmem_zc_addr(9, 4096);
  EXPECT_EQ(abi::shmem_index(addr), 9);
  EXPECT_EQ(abi::shmem_offset(addr), 4096u);
}

TEST(AbiTest, LayoutsAreTheKernels) {
  SAME_SIZE(abi::CtrlCmd, ublksrv_ctrl_cmd);
  SAME_MEMBER(abi::CtrlCmd, ublksrv_ctrl_cmd, dev_id, dev_id);
  SAME_MEMBER(abi::CtrlCmd, ublksrv_ctrl_cmd, queue_id, queue_id);
  SAME_MEMBER(abi::CtrlCmd, ublksrv_ctrl_cmd, len, len);
  SAME_MEMBER(abi::CtrlCmd, ublksrv_ctrl_cmd, addr, addr);
  SAME_MEMBER(abi::CtrlCmd, ublksrv_ctrl_cmd, data, data);
  SAME_MEMBER(abi::CtrlCmd, ublksrv_ctrl_cmd, dev_path_len, dev_path_len);

  SAME_SIZE(abi::DevInfo, ublksrv_ctrl_dev_info);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, nr_hw_queues, nr_hw_queues);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, queue_depth, queue_depth);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, state, state);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, max_io_buf_bytes, max_io_buf_bytes);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, dev_id, dev_id);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, ublksrv_pid, ublksrv_pid);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, flags, flags);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, ublksrv_flags, ublksrv_flags);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, owner_uid, owner_uid);
  SAME_MEMBER(abi::DevInfo, ublksrv_ctrl_dev_info, owner_gid, owner_gid);

  SAME_SIZE(abi::IoDesc, ublksrv_io_desc);
  SAME_MEMBER(abi::IoDesc, ublksrv_io_desc, op_flags, op_flags);
  SAME_MEMBER(abi::IoDesc, ublksrv_io_desc, nr_sectors, nr_sectors);
  SAME_MEMBER(abi::IoDesc, ublksrv_io_desc, nr_zones, nr_zones);
  SAME_MEMBER(abi::IoDesc, ublksrv_io_desc, start_sector, start_sector);
  SAME_MEMBER(abi::IoDesc, ublksrv_io_desc, addr, addr);

  SAME_SIZE(abi::IoCmd, ublksrv_io_cmd);
  SAME_MEMBER(abi::IoCmd, ublksrv_io_cmd, q_id, q_id);
  SAME_MEMBER(abi::IoCmd, ublksrv_io_cmd, tag, tag);
  SAME_MEMBER(abi::IoCmd, ublksrv_io_cmd, result, result);
  SAME_MEMBER(abi::IoCmd, ublksrv_io_cmd, addr, addr);
  SAME_MEMBER(abi::IoCmd, ublksrv_io_cmd, zone_append_lba, zone_append_lba);

  SAME_SIZE(abi::BatchIo, ublk_batch_io);
  SAME_MEMBER(abi::BatchIo, ublk_batch_io, q_id, q_id);
  SAME_MEMBER(abi::BatchIo, ublk_batch_io, flags, flags);
  SAME_MEMBER(abi::BatchIo, ublk_batch_io, nr_elem, nr_elem);
  SAME_MEMBER(abi::BatchIo, ublk_batch_io, elem_bytes, elem_bytes);
  SAME_SIZE(abi::BatchElement, ublk_elem_header);
  SAME_MEMBER(abi::BatchElement, ublk_elem_header, tag, tag);
  SAME_MEMBER(abi::BatchElement, ublk_elem_header, buf_index, buf_index);
  SAME_MEMBER(abi::BatchElement, ublk_elem_header, result, result);
  SAME_SIZE(abi::ShmemBufReg, ublk_shmem_buf_reg);
  SAME_MEMBER(abi::ShmemBufReg, ublk_shmem_buf_reg, addr, addr);
  SAME_MEMBER(abi::ShmemBufReg, ublk_shmem_buf_reg, len, len);
  SAME_MEMBER(abi::ShmemBufReg, ublk_shmem_buf_reg, flags, flags);
}

TEST(AbiTest, ParametersAreLaidOutAsTheKernels) {
  SAME_SIZE(abi::Params, ublk_params);
  SAME_MEMBER(abi::Params, ublk_params, len, len);
  SAME_MEMBER(abi::Params, ublk_params, types, types);
  SAME_MEMBER(abi::Params, ublk_params, basic, basic);
  SAME_MEMBER(abi::Params, ublk_params, discard, discard);
  SAME_MEMBER(abi::Params, ublk_params, devt, devt);
  SAME_MEMBER(abi::Params, ublk_params, zoned, zoned);
  SAME_MEMBER(abi::Params, ublk_params, dma, dma);
  SAME_MEMBER(abi::Params, ublk_params, seg, seg);
  SAME_MEMBER(abi::Params, ublk_params, integrity, integrity);

  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, attrs, attrs);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, logical_bs_shift, logical_bs_shift);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, physical_bs_shift, physical_bs_shift);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, io_opt_shift, io_opt_shift);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, io_min_shift, io_min_shift);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, max_sectors, max_sectors);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, chunk_sectors, chunk_sectors);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, dev_sectors, dev_sectors);
  SAME_MEMBER(abi::ParamBasic, ublk_param_basic, virt_boundary_mask, virt_boundary_mask);

  SAME_MEMBER(abi::ParamDiscard, ublk_param_discard, discard_alignment, discard_alignment);
  SAME_MEMBER(abi::ParamDiscard, ublk_param_discard, discard_granularity, discard_granularity);
  SAME_MEMBER(abi::ParamDiscard, ublk_param_discard, max_discard_sectors, max_discard_sectors);
  SAME_MEMBER(abi::ParamDiscard, ublk_param_discard, max_write_zeroes_sectors,
              max_write_zeroes_sectors);
  SAME_MEMBER(abi::ParamDiscard, ublk_param_discard, max_discard_segments, max_discard_segments);

  SAME_MEMBER(abi::ParamDevt, ublk_param_devt, char_major, char_major);
  SAME_MEMBER(abi::ParamDevt, ublk_param_devt, disk_minor, disk_minor);
  SAME_MEMBER(abi::ParamZoned, ublk_param_zoned, max_open_zones, max_open_zones);
  SAME_MEMBER(abi::ParamZoned, ublk_param_zoned, max_active_zones, max_active_zones);
  SAME_MEMBER(abi::ParamZoned, ublk_param_zoned, max_zone_append_sectors, max_zone_append_sectors);
  SAME_MEMBER(abi::ParamDmaAlign, ublk_param_dma_align, alignment, alignment);
  SAME_MEMBER(abi::ParamSegment, ublk_param_segment, seg_boundary_mask, seg_boundary_mask);
  SAME_MEMBER(abi::ParamSegment, ublk_param_segment, max_segment_size, max_segment_size);
  SAME_MEMBER(abi::ParamSegment, ublk_param_segment, max_segments, max_segments);
  SAME_MEMBER(abi::ParamIntegrity, ublk_param_integrity, metadata_size, metadata_size);
  SAME_MEMBER(abi::ParamIntegrity, ublk_param_integrity, csum_type, csum_type);
  SAME_MEMBER(abi::ParamIntegrity, ublk_param_integrity, tag_size, tag_size);
}

}  // namespace
}  // namespace ublk_operator

#else

TEST(AbiTest, LayoutsAreTheKernels) {
  GTEST_SKIP() << "the build was given no kernel headers of 7.2 (UBLK_UAPI_DIR is empty)";
}

#endif
