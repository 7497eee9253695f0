// Reading what an API server was asked for.
#include "tests/cluster/request_counts.h"

#include <gtest/gtest.h>

namespace ublk_operator::cluster {
namespace {

TEST(RequestCountsTest, SumsOverWhatIsNotAskedForAndKeepsSubresourcesApart) {
  const auto counts = parse_request_counts(
      "# TYPE apiserver_request_total counter\n"
      "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"ublk."
      "dev\","
      "resource=\"ublkvolumes\",scope=\"resource\",subresource=\"status\",verb=\"APPLY\","
      "version=\"v1alpha1\"} 3\n"
      "apiserver_request_total{code=\"404\",component=\"apiserver\",dry_run=\"\",group=\"ublk."
      "dev\","
      "resource=\"ublkvolumes\",scope=\"resource\",subresource=\"status\",verb=\"APPLY\","
      "version=\"v1alpha1\"} 1\n"
      "apiserver_request_total{code=\"0\",group=\"\",resource=\"pods\",subresource=\"\","
      "verb=\"WATCH\"} 1.5e+01\n"
      "apiserver_request_total_created{verb=\"LIST\"} 1\n"
      "apiserver_request_total{verb=\"LIST\"\n");
  EXPECT_EQ(counts, (RequestCounts{{{"APPLY", "ublkvolumes.ublk.dev/status"}, 4},
                                   {{"WATCH", "pods"}, 15}}));
}

TEST(RequestCountsTest, GrowthIsWhatIsMore) {
  const RequestCounts before{{{"GET", "pods"}, 2}, {{"LIST", "pods"}, 2}};
  const RequestCounts after{{{"GET", "pods"}, 2}, {{"LIST", "pods"}, 3}, {{"PUT", "leases"}, 1}};
  EXPECT_EQ(growth(before, after), (RequestCounts{{{"LIST", "pods"}, 1}, {{"PUT", "leases"}, 1}}));
}

}  // namespace
}  // namespace ublk_operator::cluster
