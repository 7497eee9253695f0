// A volume whose first blocks hold known data, so that whatever happens to it next can be shown to
// have lost nothing. A failure is a test failure.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {

inline constexpr uint64_t known_blocks = 64;
inline constexpr uint64_t known_version = 7;

inline void make_known_volume(LabNode& node, const ManifestOptions& options) {
  node.apply(options);
  ASSERT_TRUE(node.wait_ready(options.name));
  const Disk disk(node.device(options.name));
  ASSERT_EQ(disk.write_range(0, known_blocks, known_version), 0);
}

// It has its data, and takes new.
inline void expect_known_data(const LabNode& node, const std::string& name) {
  const Disk disk(node.device(name));
  ASSERT_TRUE(disk.open());
  EXPECT_EQ(disk.verify_range(0, known_blocks, known_version), 0);
  EXPECT_EQ(disk.write(known_blocks, known_version + 1), 0);
  EXPECT_EQ(disk.verify(known_blocks, known_version + 1), 0);
}

}  // namespace ublk_operator::lab
