#include "common/http/threads.h"

// Boost.Asio uses std::exchange without <utility>.
#include <utility>
//
#include <pplx/threadpool.h>

#include <mutex>

namespace ublk_operator::http {

void start_threads() {
  static std::once_flag once;
  constexpr size_t threads = 4;  // they wait for sockets together; a few callbacks at once are many
  std::call_once(once, [] { crossplat::threadpool::initialize_with_threads(threads); });
}

}  // namespace ublk_operator::http
