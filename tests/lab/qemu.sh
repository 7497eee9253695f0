# What every VM of the lab has in common: processor, kernel parameters, shared folders. Sourced.
# shellcheck shell=bash

# The second line only shortens the boot of an emulated machine.
LAB_PARAMETERS="console=ttyS0 quiet loglevel=5 panic=-1 oops=panic mitigations=off"
LAB_PARAMETERS+=" nokaslr cryptomgr.notests tsc=reliable no_timer_check"

# lab_machine: sets LAB_MACHINE to a QEMU (LAB_QEMU) with a processor and nothing else.
lab_machine() {
  # KVM where it works. The device alone proves nothing: in a nested machine it can be there while
  # guests never run an instruction; without the processor's flag it is such a one.
  local accel=tcg,thread=multi cpu=max,la57=off,svm=off
  if [[ -w /dev/kvm ]] && grep -qwE 'vmx|svm' /proc/cpuinfo; then accel=kvm; fi
  accel=${UBLK_LAB_ACCEL:-$accel}
  # An emulated processor does `rep movsb` and `rep stosb` a byte at a time, so it must not claim to be fast at that: kernel
  # and libc clear and copy pages with them then. The others cost a check at each access, or more state to switch. Without
  # smap a driver's stray access to a user's memory goes unseen, but on KVM.
  [[ $accel != tcg* ]] || cpu+=,erms=off,fsrm=off,fsrs=off,fzrm=off,fsrc=off,smap=off,pku=off,mpx=off
  LAB_MACHINE=("${LAB_QEMU[@]}" -nodefaults -no-user-config -display none -msg timestamp=on -accel "$accel" -cpu "$cpu")
}

# lab_share TAG FOLDER READONLY: the argument of -virtfs; READONLY is on or off.
lab_share() { printf -- 'local,path=%s,mount_tag=%s,security_model=none,readonly=%s,multidevs=remap' "$2" "$1" "$3"; }
