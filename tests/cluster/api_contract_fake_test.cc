#include "common/kube/fake_api_server.h"
#include "tests/cluster/api_contract.h"

namespace ublk_operator::cluster {
namespace {

INSTANTIATE_TEST_SUITE_P(Fake, ApiContractTest, ::testing::Values(MakeServer([] {
                           return std::make_shared<kube::FakeApiServer>();
                         })));

}  // namespace
}  // namespace ublk_operator::cluster
