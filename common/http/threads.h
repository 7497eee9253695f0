// The threads that cpprestsdk runs its client and its server on: one pool a process, of few threads
// instead of the library's 40.
// Threads  any, any number of times; before anything else of the library is used.
#pragma once

namespace ublk_operator::http {

void start_threads();

}  // namespace ublk_operator::http
