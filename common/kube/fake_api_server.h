// FakeApiServer: as much of an API server as our programs use, in memory, behind a Transport.
// Shape    GET, POST, PUT, PATCH (merge, JSON, server-side apply), DELETE of objects of any kind;
//          lists without pages; watches from a resource version. One resource version for all. What
//          a real server does is shown by tests/cluster/api_contract.cc, which runs on both.
//          Not there: schemas, defaults, selectors, field ownership (an apply replaces the fields
//          it names; of a list of conditions, those of its types).
// Threads  any. Watches end when they are cancelled, or by break_watches().
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "common/kube/client.h"
#include "common/kube/transport.h"

namespace ublk_operator::kube {

class FakeApiServer final : public Transport {
 public:
  Result<HttpResponse> call(const HttpRequest& request, std::chrono::seconds silence,
                            const Cancel& cancel) override;
  Result<HttpResponse> stream(const HttpRequest& request, std::chrono::seconds silence,
                              const Cancel& cancel,
                              const std::function<bool(std::string_view line)>& on_line) override;

  // --- the test's hand in it
  // Unlike a client's write, without any check. `path`: of the object.
  void put(const std::string& path, nlohmann::json object);
  void erase(const std::string& path);
  [[nodiscard]] nlohmann::json at(const std::string& path) const;  // null: none
  // Every object below that path.
  [[nodiscard]] std::vector<nlohmann::json> below(const std::string& path) const;
  // All watches end, as if the server restarted; `forget`: and what they missed is gone (410).
  void break_watches(bool forget = false);
  // Asked before each call is answered: another answer, or none.
  using Interference = std::function<std::optional<Result<HttpResponse>>(const HttpRequest&)>;
  void interfere(Interference interference);
  // "PATCH /apis/..." of every call so far that is no GET.
  [[nodiscard]] std::vector<std::string> writes() const;
  // False: not within 20 s.
  [[nodiscard]] bool wait_until(const std::function<bool()>& holds) const;

 private:
  struct Change {
    uint64_t version = 0;
    std::string type;
    std::string path;
    nlohmann::json object;
  };
  [[nodiscard]] HttpResponse answer(const HttpRequest& request);
  [[nodiscard]] HttpResponse list(const std::string& path);
  [[nodiscard]] HttpResponse create(const std::string& path, nlohmann::json object);
  [[nodiscard]] HttpResponse change(const std::string& path, const std::string& subresource,
                                    const HttpRequest& request);
  [[nodiscard]] HttpResponse remove(const std::string& path);
  void store(const std::string& path, nlohmann::json object, const char* type);
  void drop(const std::string& path);

  mutable std::mutex mutex_;  // guards what follows
  mutable std::condition_variable changed_;
  uint64_t version_ = 100;
  uint64_t forgotten_ = 0;   // watches from before this version get 410
  uint64_t generation_ = 0;  // of watches: break_watches() ends those of a lower one
  uint64_t uids_ = 0;
  std::map<std::string, nlohmann::json> objects_;  // by path
  std::deque<Change> changes_;
  std::vector<std::string> writes_;
  Interference interference_;
};

}  // namespace ublk_operator::kube
