// What a reflector asks of the server, word by word: pages, the selector, and a watch that goes on
// from bookmarks, with a time that lets a silent hang be told from quiet.
#include "common/kube/reflector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

namespace ublk_operator::kube {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

// Lists in two pages. The first watch ends after a bookmark, the second goes on until it is
// cancelled.
class ScriptedTransport final : public Transport {
 public:
  Result<HttpResponse> call(const HttpRequest& request, std::chrono::seconds,
                            const Cancel&) override {
    const bool first = request.path.find("continue=") == std::string::npos;
    record(request.path, {});
    json page{{"metadata", {{"resourceVersion", "10"}}}, {"items", json::array()}};
    if (first) page["metadata"]["continue"] = "page 2";
    return HttpResponse{200, page.dump()};
  }
  Result<HttpResponse> stream(const HttpRequest& request, std::chrono::seconds silence,
                              const Cancel& cancel,
                              const std::function<bool(std::string_view)>& on_line) override {
    if (record(request.path, silence) == 1) {
      EXPECT_TRUE(
          on_line(R"({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "90"}}})"));
      return HttpResponse{200, ""};
    }
    std::mutex mutex;
    std::condition_variable changed;
    bool canceled = false;
    const auto link = cancel.on_cancel([&] {
      const std::scoped_lock lock(mutex);
      canceled = true;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return canceled; });
    return Error{ECANCELED, "http", request.path, ""};
  }

  // The paths of the first `count` requests; of fewer, if no more came in 20 s.
  std::vector<std::string> paths(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, 20s, [&] { return paths_.size() >= count; });
    return paths_;
  }
  std::vector<std::chrono::seconds> silences() {
    const std::scoped_lock lock(mutex_);
    return silences_;
  }

 private:
  size_t record(const std::string& path, std::chrono::seconds silence) {
    const std::scoped_lock lock(mutex_);
    paths_.push_back(path);
    if (silence != 0s) silences_.push_back(silence);
    changed_.notify_all();
    return silences_.size();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> paths_;
  std::vector<std::chrono::seconds> silences_;  // of the watches
};

TEST(ReflectorTest, AsksForPagesOfWhatIsSelectedAndForBookmarks) {
  using testing::HasSubstr;
  auto transport = std::make_shared<ScriptedTransport>();
  Informer::Options options;
  options.page_limit = 7;
  options.back_off_initial = 1ms;
  Reflector reflector(
      transport, {"ublk.dev", "v1alpha1", "ublkvolumes", ""}, "fieldSelector=spec.nodeName%3Dvm1",
      options, [](const std::string&, const json*) {}, [] {}, null_logger());
  reflector.start();
  const auto paths = transport->paths(4);
  ASSERT_EQ(paths.size(), 4U);
  for (const auto& path : paths)
    EXPECT_THAT(path, testing::AllOf(testing::StartsWith("/apis/ublk.dev/v1alpha1/ublkvolumes?"),
                                     HasSubstr("fieldSelector=spec.nodeName%3Dvm1")));
  EXPECT_THAT(paths[0], HasSubstr("limit=7"));
  EXPECT_THAT(paths[1], testing::AllOf(HasSubstr("limit=7"), HasSubstr("continue=page%202")));
  EXPECT_THAT(paths[2], HasSubstr("resourceVersion=10&"));
  EXPECT_THAT(paths[3], HasSubstr("resourceVersion=90&")) << "from the bookmark on";
  const auto silences = transport->silences();
  ASSERT_EQ(silences.size(), 2U);
  for (size_t i = 0; i < silences.size(); ++i) {
    EXPECT_THAT(paths[2 + i],
                testing::AllOf(HasSubstr("watch=1"), HasSubstr("allowWatchBookmarks=true")));
    EXPECT_GE(silences[i], 60s);
    EXPECT_LE(silences[i], 70s);
    EXPECT_THAT(paths[2 + i],
                HasSubstr("timeoutSeconds=" + std::to_string((silences[i] - 10s).count())))
        << "the client waits 10 s longer than the server";
  }
}

}  // namespace
}  // namespace ublk_operator::kube
