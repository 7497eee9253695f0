#include "controller/reconcile/decide.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <vector>

namespace ublk_operator::reconcile {
namespace {

using namespace std::chrono_literals;

Observed serving() {
  Observed seen;
  seen.device = Device::live;
  seen.server = Server::serving;
  return seen;
}

// --- the story of a volume, step by step
// ---------------------------------------------------------------------------

TEST(DecideTest, ANewVolumeGoesFromNothingToServing) {
  const Desired want;
  Observed seen;
  EXPECT_EQ(decide(want, seen).act, Act::add_device);
  seen.device = Device::fresh;
  EXPECT_EQ(decide(want, seen).act, Act::prepare_server);
  seen.server = Server::warming;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::server_starting, std::nullopt}));
  seen.server = Server::prepared;
  EXPECT_EQ(decide(want, seen).act, Act::grant);
  seen.server = Server::granted;
  EXPECT_EQ(decide(want, seen).act, Act::start_device);
  EXPECT_EQ(decide(want, serving()), (Decision{Act::nothing, Why::converged, std::nullopt}));
}

TEST(DecideTest, AKilledServerIsReplacedOnceTheKernelLetGo) {
  const Desired want;
  Observed seen = serving();
  seen.server = Server::none;
  seen.without_server = 1ms;
  // While the old server's I/O ends, the next server gets ready.
  EXPECT_EQ(decide(want, seen).act, Act::prepare_server);
  seen.server = Server::prepared;
  EXPECT_EQ(decide(want, seen).act, Act::wait);
  seen.device = Device::quiesced;
  EXPECT_EQ(decide(want, seen).act, Act::begin_recovery);
  seen.recovery_begun = true;
  EXPECT_EQ(decide(want, seen).act, Act::grant);
  seen.server = Server::granted;
  EXPECT_EQ(decide(want, seen).act, Act::end_recovery);
}

TEST(DecideTest, AHeldCharDeviceIsWaitedForAndNotAsked) {
  const Desired want;
  Observed seen;
  seen.device = Device::quiesced;
  seen.server = Server::prepared;
  seen.still_held = true;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::device_releasing, poke_release_after}));
  seen.close_seen = true;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::device_releasing, release_recheck}));
}

TEST(DecideTest, ARecoveryThatDiesHalfWayIsBegunAgain) {
  const Desired want;
  Observed seen;
  seen.device = Device::quiesced;
  seen.server = Server::none;  // the new server died before END_USER_RECOVERY
  EXPECT_EQ(decide(want, seen).act, Act::prepare_server);
  seen.retry_in = 40ms;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::back_off, 40ms}));
}

TEST(DecideTest, ADeviceLostBeforeItsServerIsSeenDeadIsALoss) {
  const Desired want;
  for (const Device device : {Device::quiesced, Device::fail_io, Device::dead}) {
    Observed seen = serving();
    seen.device = device;
    EXPECT_EQ(decide(want, seen), (Decision{Act::kill_server, Why::server_dying, std::nullopt}));
  }
}

TEST(DecideTest, TheServerOfADiskThatWeStoppedIsNoLoss) {
  const Desired want;
  Observed seen = serving();
  seen.device = Device::dead;  // stopped to be made anew
  seen.taken_down = true;
  EXPECT_EQ(decide(want, seen), (Decision{Act::kill_server, Why::starting, std::nullopt}));
}

TEST(DecideTest, LiveWithoutAServerIsPokedAfterAWhile) {
  Desired want;
  Observed seen = serving();
  seen.server = Server::prepared;
  seen.without_server = poke_release_after - 1ms;
  EXPECT_EQ(decide(want, seen).act, Act::wait);
  seen.without_server = poke_release_after;
  EXPECT_EQ(decide(want, seen).act, Act::poke_release);
}

TEST(DecideTest, TheDiskOfModeNoneIsMadeAnew) {
  Desired want;
  want.recoverable = false;
  Observed seen = serving();
  seen.server = Server::none;  // killed; the kernel has not noticed
  seen.without_server = 1ms;
  EXPECT_EQ(decide(want, seen).act, Act::prepare_server);
  seen.server = Server::prepared;
  EXPECT_EQ(decide(want, seen).act, Act::wait);
  seen.device = Device::dead;
  EXPECT_EQ(decide(want, seen).act, Act::delete_device);
  seen.device = Device::absent;
  EXPECT_EQ(decide(want, seen).act, Act::add_device);
  seen.device = Device::fresh;
  EXPECT_EQ(decide(want, seen).act, Act::grant);
}

TEST(DecideTest, AServerThatDiedBeforeStartLeavesADeviceOfNoUse) {
  const Desired want;
  Observed seen;
  seen.device = Device::dead;
  seen.server = Server::granted;
  EXPECT_EQ(decide(want, seen).act, Act::kill_server);
  seen.server = Server::none;
  EXPECT_EQ(decide(want, seen).act, Act::delete_device);
}

TEST(DecideTest, AModeTheKernelLacksIsSaidAndNothingIsMade) {
  Observed seen;
  seen.mode_supported = false;
  EXPECT_EQ(decide(Desired{}, seen),
            (Decision{Act::wait, Why::unsupported_by_kernel, std::nullopt}));
}

TEST(DecideTest, WithoutTheDriverNothingIsMadeAndWhatIsToGoGoes) {
  Observed seen;
  seen.driver_there = false;
  EXPECT_EQ(decide(Desired{}, seen), (Decision{Act::wait, Why::driver_missing, std::nullopt}));
  Desired gone;
  gone.present = false;
  EXPECT_EQ(decide(gone, seen).act, Act::forget);
  gone.delete_backend = true;
  EXPECT_EQ(decide(gone, seen).act, Act::delete_backend);
}

TEST(DecideTest, ARecoveryWaitsForItsBackend) {
  Observed seen;
  seen.device = Device::quiesced;
  seen.backend_ready = false;
  EXPECT_EQ(decide(Desired{}, seen).why, Why::backend_unavailable);
}

// --- stopping
// -------------------------------------------------------------------------------------------------

TEST(DecideTest, AnUnusedVolumeIsStoppedAndRemoved) {
  Desired want;
  want.present = false;
  Observed seen = serving();
  EXPECT_EQ(decide(want, seen).act, Act::check_usage);
  seen.usage = Usage::unused;
  EXPECT_EQ(decide(want, seen).act, Act::try_stop);
  seen.device = Device::dead;
  EXPECT_EQ(decide(want, seen).act, Act::kill_server);
  seen.server = Server::none;
  EXPECT_EQ(decide(want, seen).act, Act::delete_device);
  seen.device = Device::absent;
  EXPECT_EQ(decide(want, seen).act, Act::forget);
}

TEST(DecideTest, OnlyReclaimDeleteTouchesTheFile) {
  Desired want;
  want.present = false;
  want.delete_backend = true;
  EXPECT_EQ(decide(want, Observed{}).act, Act::delete_backend);
  want.present = true;
  want.running = false;
  EXPECT_EQ(decide(want, Observed{}).act, Act::nothing);
}

TEST(DecideTest, AVolumeInUseGoesOnUntilItsLastUserLeaves) {
  Desired want;
  want.running = false;
  Observed seen = serving();
  seen.usage = Usage::in_use;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::in_use, usage_recheck}));
  // Its server dies meanwhile: users come first.
  seen.device = Device::quiesced;
  seen.server = Server::none;
  EXPECT_EQ(decide(want, seen).act, Act::prepare_server);
}

TEST(DecideTest, ForceKillsTheServerBeforeItStopsTheDevice) {
  Desired want;
  want.running = false;
  want.forced = true;
  Observed seen = serving();
  seen.usage = Usage::in_use;
  EXPECT_EQ(decide(want, seen).act, Act::kill_server);
  seen.server = Server::none;
  EXPECT_EQ(decide(want, seen).act, Act::stop_device);
  seen.stop_retry_in = 20s;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::stopped, 20s}))
      << "one that the kernel holds is not joined by another";
}

TEST(DecideTest, ANewShapeWaitsUntilTheDiskIsUnused) {
  const Desired want;
  Observed seen = serving();
  seen.recreate_wanted = true;
  EXPECT_EQ(decide(want, seen).act, Act::check_usage);
  seen.usage = Usage::in_use;
  EXPECT_EQ(decide(want, seen).why, Why::needs_recreate);
  seen.usage = Usage::unused;
  EXPECT_EQ(decide(want, seen), (Decision{Act::try_stop, Why::needs_recreate, std::nullopt}));
}

TEST(DecideTest, TheDeadlineFailsTheDeviceOnlyWhenTheSpecSaysSo) {
  Desired want;
  want.deadline = 5s;
  Observed seen;
  seen.device = Device::quiesced;
  seen.without_server = 5s;
  EXPECT_EQ(decide(want, seen).act, Act::prepare_server);
  want.fail_on_deadline = true;
  EXPECT_EQ(decide(want, seen), (Decision{Act::stop_device, Why::deadline_exceeded, std::nullopt}));
  seen.without_server = 4900ms;
  seen.retry_in = 10s;
  EXPECT_EQ(decide(want, seen).recheck, 100ms);  // not slept through
}

// A new agent whose spawner does not answer: the server that it cannot reach serves.
TEST(DecideTest, TheDeadlineDoesNotRunWhileSomebodyElseServes) {
  Desired want;
  want.deadline = 5s;
  want.fail_on_deadline = true;
  Observed seen = serving();
  seen.server = Server::none;
  seen.old_holder_alive = true;
  seen.without_server = 60s;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::old_holder_alive, usage_recheck}));
}

TEST(DecideTest, AHungServerIsReplacedOnRequestAlsoWhenItsVolumeIsToGo) {
  Desired want;
  want.replace_server = true;
  for (bool* unwanted : {&want.present, &want.running}) {
    *unwanted = false;
    EXPECT_EQ(decide(want, serving()).act, Act::kill_server);
    *unwanted = true;
  }
}

TEST(DecideTest, PausedMeansPaused) {
  Desired want;
  want.paused = true;
  want.present = false;
  EXPECT_EQ(decide(want, serving()), (Decision{Act::nothing, Why::paused, std::nullopt}));
}

TEST(DecideTest, ADiskIsNotGivenUpForOneThatCouldNotBeServed) {
  const Desired want;
  Observed seen = serving();
  seen.recreate_wanted = true;
  seen.recreate_ready = false;
  EXPECT_EQ(decide(want, seen), (Decision{Act::wait, Why::needs_recreate, usage_recheck}));
  seen.recreate_ready = true;
  EXPECT_EQ(decide(want, seen).act, Act::check_usage);
}

// --- what must never happen, over every combination
// ------------------------------------------------------------------

void for_every_combination(const std::function<void(const Desired&, const Observed&)>& check) {
  const std::vector<Device> devices{Device::absent, Device::fresh,    Device::dead,
                                    Device::live,   Device::quiesced, Device::fail_io};
  const std::vector<Server> servers{Server::none, Server::warming, Server::prepared,
                                    Server::granted, Server::serving};
  const std::vector<Usage> usages{Usage::unknown, Usage::unused, Usage::in_use};
  for (const auto device : devices)
    for (const auto server : servers)
      for (const auto usage : usages)
        for (unsigned bits = 0; bits < (1U << 17); ++bits) {
          const auto bit = [bits](unsigned n) { return (bits >> n & 1U) != 0; };
          Desired want;
          want.present = bit(0);
          want.running = bit(1);
          want.forced = bit(2);
          want.replace_server = bit(3);
          want.delete_backend = bit(4);
          want.recoverable = bit(5);
          want.fail_on_deadline = bit(6);
          if (bit(6)) want.deadline = 5s;
          Observed seen;
          seen.device = device;
          seen.server = server;
          seen.usage = usage;
          seen.mode_supported = bit(7);
          seen.backend_ready = bit(8);
          seen.recreate_wanted = bit(9);
          seen.recovery_begun = bit(10);
          seen.still_held = bit(11);
          seen.old_holder_alive = bit(12);
          seen.without_server = bit(13) ? 10s : 0s;
          seen.retry_in = bit(14) ? 30ms : 0ms;
          seen.recovery_impossible = bit(15);
          seen.taken_down = bit(16);
          check(want, seen);
        }
}

bool has_disk(Device device) {
  return device == Device::live || device == Device::quiesced || device == Device::fail_io;
}

TEST(DecideInvariantTest, ADiskIsNeverDeletedAndOnlyStoppedForcedUnusedOrByDeadline) {
  for_every_combination([](const Desired& want, const Observed& seen) {
    const Act act = decide(want, seen).act;
    if (has_disk(seen.device)) {
      ASSERT_NE(act, Act::delete_device);
      ASSERT_NE(act, Act::add_device);
      ASSERT_NE(act, Act::forget);
      ASSERT_NE(act, Act::delete_backend);
    }
    if (act == Act::try_stop) {
      ASSERT_EQ(seen.usage, Usage::unused);
    }
    if (act == Act::stop_device) {
      const bool asked = want.forced && (!want.present || !want.running);
      const bool deadline = want.fail_on_deadline && seen.without_server >= *want.deadline;
      ASSERT_TRUE(asked || deadline);
      ASSERT_EQ(seen.server, Server::none) << "STOP_DEV while a server may hang blocks for good";
      ASSERT_TRUE(asked || seen.device != Device::live || !seen.old_holder_alive)
          << "a disk that is served is not failed for want of a server";
    }
  });
}

TEST(DecideInvariantTest, NobodyIsGrantedADeviceThatWasNotReleased) {
  for_every_combination([](const Desired& want, const Observed& seen) {
    const Act act = decide(want, seen).act;
    if (act == Act::grant) {
      ASSERT_EQ(seen.server, Server::prepared);
      ASSERT_TRUE(seen.device == Device::fresh || seen.recovery_begun);
      ASSERT_TRUE(seen.backend_ready);
    }
    if (act == Act::end_recovery) {
      ASSERT_EQ(seen.server, Server::granted);
    }
  });
}

TEST(DecideInvariantTest, DataGoesOnlyWhenTheVolumeIsGoneAndTheSpecSaidDelete) {
  for_every_combination([](const Desired& want, const Observed& seen) {
    if (decide(want, seen).act == Act::delete_backend) {
      ASSERT_FALSE(want.present);
      ASSERT_TRUE(want.delete_backend);
      ASSERT_EQ(seen.device, Device::absent);
      ASSERT_EQ(seen.server, Server::none);
    }
  });
}

TEST(DecideInvariantTest, AServingVolumeThatIsWantedIsLeftAlone) {
  for_every_combination([](const Desired& want, const Observed& seen) {
    if (want.present && want.running && !want.replace_server && seen.device == Device::live &&
        seen.server == Server::serving && !seen.recreate_wanted) {
      ASSERT_EQ(decide(want, seen).act, Act::nothing);
    }
  });
}

TEST(DecideInvariantTest, BackOffHoldsEveryNewAttempt) {
  for_every_combination([](const Desired& want, const Observed& seen) {
    if (seen.retry_in.count() > 0) {
      const Act act = decide(want, seen).act;
      ASSERT_NE(act, Act::prepare_server);
      ASSERT_NE(act, Act::add_device);
      ASSERT_NE(act, Act::delete_device);
      ASSERT_NE(act, Act::grant);
      ASSERT_NE(act, Act::start_device);
      ASSERT_NE(act, Act::end_recovery) << "one that fails without its server dying would spin";
    }
  });
}

TEST(DecideTest, EveryNameIsDistinct) {
  std::set<std::string> names;
  for (int i = 0; i <= static_cast<int>(Why::replacing_server); ++i)
    names.insert(to_string(static_cast<Why>(i)));
  EXPECT_EQ(names.size(), static_cast<size_t>(Why::replacing_server) + 1);
  names.clear();
  for (int i = 0; i <= static_cast<int>(Act::forget); ++i)
    names.insert(to_string(static_cast<Act>(i)));
  EXPECT_EQ(names.size(), static_cast<size_t>(Act::forget) + 1);
}

}  // namespace
}  // namespace ublk_operator::reconcile
