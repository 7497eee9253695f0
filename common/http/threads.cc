#include "common/http/threads.h"

// Boost.Asio uses std::exchange without <utility>.
#include <utility>
//
#include <openssl/ssl.h>
#include <pplx/threadpool.h>

#include <mutex>

namespace ublk_operator::http {

void start_threads() {
  static std::once_flag once;
  constexpr size_t threads = 4;  // they wait for sockets together; a few callbacks at once are many
  std::call_once(once, [] {
    // Before the pool, so that its end at exit comes after that of the pool's threads: what they
    // have of it is theirs to free.
    OPENSSL_init_ssl(0, nullptr);
    crossplat::threadpool::initialize_with_threads(threads);
  });
}

}  // namespace ublk_operator::http
