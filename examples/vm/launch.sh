# shellcheck shell=sh disable=SC2034 # the launchers use what is set here
# What the launchers beside this file share; they source it.
#
#   LAUNCHER [--print] KERNEL DISK [OPTION OF THE VMM]...
#
# Starts fdferry-host and a virtual machine that can reach it, and ends both when the machine
# ends. KERNEL is booted directly; DISK is a raw image that is the root file system, without
# partitions. --print shows the commands and runs nothing.
#
# Environment: INITRD, APPEND (the kernel's command line), MEMORY (MiB, 2048), CPUS (2), CID (the
# machine's address, 3), PORT (7000), TITLE (put in front of window titles, "[vm] "), FDFERRY_HOST
# (the program, fdferry-host). A file name must not have a comma in it.
#
# Then, in the guest: fdferry-guest --connect vsock:7000 -- COMMAND
set -eu

initrd=${INITRD:-}
append=${APPEND:-root=/dev/vda rw console=ttyS0}
memory=${MEMORY:-2048}
cpus=${CPUS:-2}
cid=${CID:-3}
port=${PORT:-7000}
title=${TITLE:-[vm] }
host=${FDFERRY_HOST:-fdferry-host}
run=${XDG_RUNTIME_DIR:-}/fdferry-vm-$cid # for sockets
print=no
host_pid=

help() {
	sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
	sed -n '/^#   LAUNCHER/,/^[^#]/s/^# \{0,1\}//p' "$(dirname "$0")/launch.sh"
}

# launch_parse ARGUMENT...: sets $kernel, $disk, and $parsed, how many arguments that were
launch_parse() {
	parsed=2
	case ${1:-} in
	--help) help && exit 0 ;;
	--print) print=yes parsed=3 && shift ;;
	esac
	if [ $# -lt 2 ]; then
		echo "usage: $0 [--print] KERNEL DISK [OPTION]... (see --help)" >&2
		exit 2
	fi
	: "${XDG_RUNTIME_DIR:?is not set: sockets go there}"
	kernel=$1
	disk=$2
	if [ $print = yes ]; then
		echo "mkdir -p -m 0700 $(quote "$run")"
	else
		prepare
	fi
}

prepare() {
	trap 'cleanup' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	rm -rf "$run"
	mkdir -m 0700 "$run"
}

cleanup() {
	if [ -n "$host_pid" ]; then
		kill "$host_pid" 2>/dev/null || true
		wait "$host_pid" || true
	fi
	rm -rf "$run"
}

# quote WORD...: one line that a shell reads as these words
quote() {
	line=
	for word; do
		case $word in
		'' | *[!A-Za-z0-9_./:=,@%+-]*)
			word=\'$(printf '%s\n' "$word" | sed "s/'/'\\\\''/g")\'
			;;
		esac
		line="$line $word"
	done
	printf '%s' "${line# }"
}

# json_string TEXT
json_string() {
	printf '"%s"' "$(printf '%s\n' "$1" | sed 's/[\\"]/\\&/g')"
}

# write_file PATH: what comes on stdin
write_file() {
	if [ $print = yes ]; then
		printf "cat >%s <<'END'\n%s\nEND\n" "$(quote "$1")" "$(cat)"
	else
		cat >"$1"
	fi
}

# start_host OPTION...: returns when guests can connect
start_host() {
	set -- --title-prefix "$title" "$@"
	if [ $print = yes ]; then
		echo "$(quote "$host" "$@") &"
		return
	fi
	mkfifo "$run/ready"
	"$host" --print-ready "$@" >"$run/ready" &
	host_pid=$!
	read -r _ <"$run/ready" || exit 1 # it has said why
}

# run_vmm COMMAND...: ends with it
run_vmm() {
	if [ $print = yes ]; then
		quote "$@"
		echo
	else
		"$@"
	fi
}
