// What the programs of this folder write: a block tells where it belongs and which version it is;
// the rest follows from these.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ublk_operator {

inline constexpr size_t block_bytes = 4096;

inline void fill(std::byte* at, uint64_t block, uint64_t version) {
  uint64_t words[block_bytes / 8];
  uint64_t state = block * 0x9e3779b97f4a7c15ULL + version;
  for (auto& word : words) word = state = state * 6364136223846793005ULL + 1442695040888963407ULL;
  words[0] = block;
  words[1] = version;
  std::memcpy(at, words, block_bytes);
}

}  // namespace ublk_operator
