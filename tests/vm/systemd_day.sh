#!/bin/bash
# A day of systemd_test, and its evening: systemd_day.sh FirstDay|SecondDay. Runs in the VM, under systemd.
set -u
day=$1
[[ $day != FirstDay ]] || tar -xf "$UBLK_RESULTS/install.tar" -C / || exit 1
mkdir -p /var/log/journal
/build/systemd/systemd_test --gtest_color=no --gtest_filter="$day.*" --gtest_output="json:$UBLK_RESULTS/systemd_test.json" \
  >"$UBLK_RESULTS/systemd_test.log" 2>&1
echo "$? 0" >"$UBLK_RESULTS/systemd_test.status"
# The evening: two mounted file systems, one being written to, and no server alive.
dd if=/dev/zero of=/mnt/hand/evening bs=64k count=100000 oflag=dsync status=none &
pkill -KILL -x ublk-server
systemctl poweroff
sleep 600
