// Memory of the data path: mapped, populated and kept out of core dumps before it is needed.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <span>
#include <utility>

#include "common/base/result.h"

namespace ublk_operator {

// Owns one mapping.
class Mapping {
 public:
  Mapping() = default;
  Mapping(void* address, size_t bytes) : address_(address), bytes_(bytes) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (address_ != nullptr) munmap(address_, bytes_);
  }

  [[nodiscard]] void* address() const { return address_; }
  [[nodiscard]] std::span<std::byte> bytes() const {
    return {static_cast<std::byte*>(address_), bytes_};
  }

 private:
  void* address_ = nullptr;
  size_t bytes_ = 0;
};

// Zeroed memory with every page present, in huge pages where the kernel gives them: fewer pages are
// also freed sooner when the server is killed, which is part of the pause. `bytes` is rounded up to
// pages; 0 gives an empty mapping. ENOMEM; EAGAIN: RLIMIT_MEMLOCK is too low for locked memory.
[[nodiscard]] Result<Mapping> map_buffers(size_t bytes);

}  // namespace ublk_operator
