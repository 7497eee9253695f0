#include "node/ublk/fake_kernel_state.h"

#include <utility>

namespace ublk_operator {

using namespace fake;

namespace fake {

bool is_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) > 0 && entry.revents != 0;
}

EventFd new_event() {
  Result<EventFd> event = EventFd::create();
  return std::move(event).value();
}

}  // namespace fake

// ---- requests ---------------------------------------------------------------------------------

void FakeKernelState::end_request(Device& device, RequestPtr request, int err) {
  device.queues[request->queue].tags[request->tag].busy = false;
  request->done.set_value(err);
  pump(device);
  changed();
}

void FakeKernelState::pump(Device& device) {
  if (device.pumping || device.stop_pending) return;
  device.pumping = true;
  while (!device.waiting.empty()) {
    RequestPtr& next = device.waiting.front();
    if (!take_tag(device, *next)) break;
    RequestPtr request = std::move(next);
    device.waiting.pop_front();
    dispatch(device, std::move(request));
  }
  device.pumping = false;
}

bool FakeKernelState::take_tag(Device& device, Request& request) {
  for (size_t q = 0; q < device.queues.size(); ++q) {
    std::vector<Tag>& tags = device.queues[q].tags;
    for (size_t t = 0; t < tags.size(); ++t) {
      if (tags[t].busy) continue;
      tags[t].busy = true;
      request.queue = static_cast<uint16_t>(q);
      request.tag = static_cast<uint16_t>(t);
      return true;
    }
  }
  return false;
}

void FakeKernelState::requeue_or_fail(Device& device, RequestPtr request) {
  if (queues_io(device))
    device.requeued.push_back(std::move(request));
  else
    end_request(device, std::move(request), EIO);
}

void FakeKernelState::dispatch(Device& device, RequestPtr request) {
  Queue& queue = device.queues[request->queue];
  Tag& tag = queue.tags[request->tag];
  if (is_7_2() && queue.fail_io)
    return end_request(device, std::move(request), EREMOTEIO);  // BLK_STS_TARGET
  if (device.block_queue_quiesced) return device.held.push_back(std::move(request));
  if (queue.canceling) return requeue_or_fail(device, std::move(request));
  Process* owner = find_process(tag.owner);
  if (!tag.active || tag.canceled || owner == nullptr || !owner->alive)
    return device.held.push_back(std::move(request));  // nobody will ever take it: it hangs
  tag.active = false;
  owner->inbox.push_back(FakeDelivery{false, request->queue, request->tag, request->io});
  tag.owned = std::move(request);
  changed();
}

void FakeKernelState::kick(Device& device) {
  std::deque<RequestPtr> again = std::exchange(device.held, {});
  std::move(device.requeued.begin(), device.requeued.end(), std::back_inserter(again));
  device.requeued.clear();
  for (RequestPtr& request : again) dispatch(device, std::move(request));
}

void FakeKernelState::abort_owned(Device& device, Queue& queue) {
  for (Tag& tag : queue.tags) {
    if (!tag.owned) continue;
    RequestPtr request = std::move(tag.owned);
    if (reissues(device))
      device.requeued.push_back(std::move(request));
    else
      end_request(device, std::move(request), EIO);
  }
  changed();
}

void FakeKernelState::set_canceling(Device& device) {
  for (Queue& queue : device.queues) queue.canceling = true;
}

void FakeKernelState::cancel_fetches(Device& device) {
  for (size_t q = 0; q < device.queues.size(); ++q) {
    for (size_t t = 0; t < device.queues[q].tags.size(); ++t) {
      Tag& tag = device.queues[q].tags[t];
      if (!tag.active || tag.canceled) continue;
      tag.canceled = true;
      Process* owner = find_process(tag.owner);
      if (owner != nullptr && owner->alive)
        owner->inbox.push_back(
            FakeDelivery{true, static_cast<uint16_t>(q), static_cast<uint16_t>(t), {}});
    }
  }
  changed();
}

// ---- life and death of disk and device --------------------------------------------------------

void FakeKernelState::detach_disk(Device& device) {
  std::deque<RequestPtr> orphans;
  for (std::deque<RequestPtr>* list : {&device.waiting, &device.requeued, &device.held}) {
    std::move(list->begin(), list->end(), std::back_inserter(orphans));
    list->clear();
  }
  for (RequestPtr& request : orphans) {
    device.queues[request->queue].tags[request->tag].busy = false;
    request->done.set_value(EIO);
  }
  for (Queue& queue : device.queues) {
    for (Tag& tag : queue.tags) tag.busy = false;
  }
  device.disk = 0;
  device.block_queue_quiesced = false;
  device.info.state = DeviceState::dead;
  device.info.server_pid = -1;
  changed();
}

void FakeKernelState::advance(Device& device) {
  if (device.quiesce_work && !device.has_owned()) {
    device.quiesce_work = false;
    device.info.state = DeviceState::quiesced;
    cancel_fetches(device);
  }
  if (device.stop_pending && !device.has_owned()) {
    device.stop_pending = false;
    detach_disk(device);
    cancel_fetches(device);
  }
  if (device.delete_pending && !device.stop_pending) {
    device.delete_pending = false;
    device.deleted = true;
    control_mutex = false;
  }
  free_if_unused(device);
  changed();
}

void FakeKernelState::begin_stop(Device& device) {
  if (device.info.state == DeviceState::dead) {
    cancel_fetches(device);
  } else {
    device.stop_pending = true;
  }
  advance(device);
}

void FakeKernelState::free_if_unused(const Device& device) {
  if (!device.deleted || device.open || !device.disk_files.empty() ||
      device.command_references != 0)
    return;
  devices.erase(device.info.id);
  changed();
}

bool FakeKernelState::ring_exits(Device& device, pid_t pid) {
  if (is_7_2()) {
    for (Queue& queue : device.queues) {
      for (Tag& tag : queue.tags) {
        if (!tag.active || tag.canceled || tag.owner != pid) continue;
        set_canceling(device);
        tag.canceled = true;
      }
    }
    return true;
  }
  bool exits = true;
  for (Queue& queue : device.queues) {
    const bool has_command = std::any_of(
        queue.tags.begin(), queue.tags.end(),
        [pid](const Tag& tag) { return tag.active && !tag.canceled && tag.owner == pid; });
    if (!has_command) continue;
    if (queue.daemon != pid) {  // ublk_uring_cmd_cancel_fn gives up on a queue without a daemon
      exits = false;
      continue;
    }
    abort_queue_6_12(device, queue);
    for (Tag& tag : queue.tags) tag.canceled = tag.active;
  }
  advance(device);
  return exits;
}

void FakeKernelState::abort_queue_6_12(Device& device, Queue& queue) {
  if (queue.canceling || device.disk == 0) return;
  queue.canceling = true;
  abort_owned(device, queue);
  if (!recovers(device)) {
    device.stop_pending = true;
  } else if (device.info.state == DeviceState::live) {
    device.block_queue_quiesced = true;
    device.quiesce_work = true;
  }
}

void FakeKernelState::drop_file_reference(const DevicePtr& device) {
  UBLK_CHECK(device->file_references > 0);
  if (--device->file_references > 0) return;
  if (device->release_held) {
    device->release_due = true;
    return;
  }
  release(*device);
}

void FakeKernelState::release(Device& device) {
  device.release_due = false;
  if (is_7_2() && device.disk != 0) {
    set_canceling(device);
    for (Queue& queue : device.queues) abort_owned(device, queue);
    advance(device);  // a stop that waited for these requests holds the mutex and goes first
    if (device.disk != 0) {
      if (!recovers(device)) {
        detach_disk(device);
      } else if (queues_io(device)) {
        device.info.state = DeviceState::quiesced;
      } else {
        device.info.state = DeviceState::fail_io;
        for (Queue& queue : device.queues) queue.fail_io = true;
      }
    }
    reset(device);
  }
  device.open = false;
  released.push_back(device.info.id);
  free_if_unused(device);
  changed();
}

void FakeKernelState::reset(Device& device) {
  for (Queue& queue : device.queues) {
    queue.ready = 0;
    queue.daemon = 0;
    for (Tag& tag : queue.tags) {
      tag.active = tag.canceled = false;
      tag.owner = 0;
    }
  }
  device.memory_of = 0;
  device.opener = -1;
}

void FakeKernelState::give_up_char(Process& process, pid_t pid) {
  if (!process.device) return;
  const DevicePtr device = std::exchange(process.device, nullptr);
  process.inbox.clear();
  // A ring that never exits keeps its reference to the file for good.
  if (ring_exits(*device, pid)) drop_file_reference(device);
}

void FakeKernelState::kill(pid_t pid) {
  Process* process = find_process(pid);
  if (process == nullptr || !process->alive) return;
  process->alive = false;
  process->exited.signal();
  give_up_char(*process, pid);
  changed();
}

// ---- the server's side ------------------------------------------------------------------------

Result<void> FakeKernelState::fetch(pid_t pid, uint16_t q, uint16_t t) {
  Process& process = *find_process(pid);
  const auto refuse = [q, t](int err, const char* why) {
    return Error{err, "fetch", "queue " + std::to_string(q) + " tag " + std::to_string(t), why};
  };
  if (!process.device) return refuse(EBADF, "the char device is not open");
  Device& device = *process.device;
  if (q >= device.queues.size() || t >= device.queues[q].tags.size())
    return refuse(EINVAL, "no such tag");
  Queue& queue = device.queues[q];
  Tag& tag = queue.tags[t];
  if (is_7_2()) {
    if (ready(device)) return refuse(EBUSY, "the device is complete");
    if (tag.active) return refuse(EINVAL, "fetched already");
  } else {
    if (queue.daemon != 0 && queue.daemon != pid) return refuse(EINVAL, "another's queue");
    if (tag.active || queue.complete()) return refuse(EBUSY, "fetched already");
  }
  tag.active = true;
  tag.canceled = false;
  tag.owner = pid;
  ++queue.ready;
  if (queue.complete()) {
    if (is_7_2()) {
      queue.canceling = queue.fail_io = false;
    } else {
      queue.daemon = pid;
      if (++device.queues_ready == device.queues.size()) device.completion = true;
    }
  }
  changed();
  return {};
}

}  // namespace ublk_operator
