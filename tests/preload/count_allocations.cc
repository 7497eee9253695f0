// Loaded into a program by a test (LD_PRELOAD): counts what it allocates, in the file that
// UBLK_ALLOCATIONS names.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>

// The allocator of glibc by its other names.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
}
// NOLINTEND(bugprone-reserved-identifier)

namespace {
std::atomic<uint64_t>* counter = nullptr;

[[gnu::constructor]] void begin() {
  const char* path = getenv("UBLK_ALLOCATIONS");
  const int fd = path != nullptr ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void* page = mmap(nullptr, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page != MAP_FAILED) counter = static_cast<std::atomic<uint64_t>*>(page);
  close(fd);
}

void count() {
  if (counter != nullptr) counter->fetch_add(1, std::memory_order_relaxed);
}
}  // namespace

extern "C" {
[[gnu::visibility("default")]] void* malloc(size_t bytes) {
  count();
  return __libc_malloc(bytes);
}
[[gnu::visibility("default")]] void* calloc(size_t n, size_t bytes) {
  count();
  return __libc_calloc(n, bytes);
}
[[gnu::visibility("default")]] void* realloc(void* old, size_t bytes) {
  count();
  return __libc_realloc(old, bytes);
}
[[gnu::visibility("default")]] void* aligned_alloc(size_t alignment, size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}
[[gnu::visibility("default")]] int posix_memalign(void** result, size_t alignment, size_t bytes) {
  count();
  *result = __libc_memalign(alignment, bytes);
  return *result != nullptr ? 0 : ENOMEM;
}
}
