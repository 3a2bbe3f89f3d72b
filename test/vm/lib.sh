# shellcheck shell=bash
# What cases are written in. Sourced by bash before each case; a case fails with its first
# command that fails.
set -eEuo pipefail
shopt -s inherit_errexit
trap 'echo "FAILED at line $LINENO: $BASH_COMMAND"; evidence' ERR
umask 022

export deb=/test/secmcpd.deb
export previous=/test/secmcpd-previous.deb # of a build of long before
export later=/test/secmcpd-later.deb # the same, as a later version
export rpm=/test/secmcpd.rpm later_rpm=/test/secmcpd-later.rpm # in the guest of TestRPM alone
begun=$(date '+%Y-%m-%d %H:%M:%S')
export PATH=/test/bin:$PATH
# What the Vagrantfile's machines run.
export vagrant=/test/vagrant
# The address of the lab host, and the end of the cable that is this machine's.
lab=10.77.0.2
export outside=10.77.0.1

fail() { echo "FAILED: $*"; evidence; exit 1; }

# evidence prints what helps to see why a case failed.
evidence() {
	trap - ERR
	set +e
	echo "--- units"
	systemctl --no-pager --full --lines=0 status secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket secmcpd.service secmcpd-launcher.service
	echo "--- journal"
	journalctl --no-pager --since "$begun" -n 60 -o short-precise -u secmcpd.socket -u secmcpd-front.socket -u secmcpd.service -u secmcpd-launcher.service
	set -e
}

# equal WHAT GOT WANT
equal() { [ "$2" = "$3" ] || fail "$1 is \"$2\", want \"$3\""; }

# contains WHAT TEXT PART
contains() { case $2 in *"$3"*) ;; *) fail "$1 has no \"$3\": $2" ;; esac; }

# refused COMMAND... must fail.
refused() { if "$@"; then fail "succeeded: $*"; fi; }

# eventually SECONDS COMMAND... repeats it until it succeeds.
eventually() {
	local end=$(($(now) + $1 * 1000))
	shift
	until "$@" 2>/dev/null; do
		[ "$(now)" -lt "$end" ] || fail "not in time: $*"
		sleep 0.1
	done
}

now() { date +%s%3N; } # milliseconds

property() { systemctl show --value --property="$2" "$1"; }
active() { systemctl is-active --quiet "$1"; }
# since UNIT...: how they are, and since when they have been active.
since() { systemctl show --property=Id,ActiveState,ActiveEnterTimestampMonotonic "$@"; }

# hold UNIT SECONDS: the unit is active now and still is, same process, after that time.
hold() {
	local pid
	pid=$(property "$1" MainPID)
	sleep "$2"
	active "$1" || fail "$1 is $(property "$1" ActiveState)"
	equal "main process of $1 after $2 s" "$(property "$1" MainPID)" "$pid"
}

launcher() { property secmcpd-launcher.service MainPID; }

# The directory of the launcher's cgroup, and the cgroups of the boxes in it.
cgroup() { echo "$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)$(property secmcpd-launcher.service ControlGroup)"; }
boxes() { find "$(cgroup)/boxes" -mindepth 1 -maxdepth 1 -type d -name 'box-*' 2>/dev/null || true; }
# The scanners that run, by name: no case is left to trust cgroups to say that none is left.
scanners() { pgrep -x "nmap|hog" || true; }
no_scanner() { [ -z "$(scanners)" ]; }
no_box() { [ -z "$(boxes)" ]; }

# runs JOB: its scanner does. Before it there is a box in which the scanner says its version.
box() { echo "$(cgroup)/boxes/box-$1"; }
runs() { grep -qxE 'nmap|hog' "/proc/$(head -n 1 "$(box "$1")/cgroup.procs")/comm"; }

# agent NAME makes a user who may connect, outsider NAME one who may not. A user whom an earlier case has made
# is in no group of a package that was purged since.
agent() {
	id -u "$1" >/dev/null 2>&1 || useradd --create-home "$1"
	usermod --append --groups secmcpd-agents "$1"
}
outsider() { id -u "$1" >/dev/null 2>&1 || useradd --create-home "$1"; }

# as USER COMMAND...
as() { local user=$1; shift; (cd / && setpriv --reuid="$user" --regid="$user" --init-groups --reset-env env PATH="$PATH" "$@"); }

# call USER TOOL ARGUMENTS prints the structured result; status 3: the tool said no.
call() { local user=$1; shift; as "$user" labtool call "$@"; }

# value PATH JSON prints what is at the path.
value() { labtool get "$1" <<<"$2"; }

# refusal USER TOOL ARGUMENTS prints the code with which the tool says no.
refusal() {
	local answer status=0
	answer=$(call "$@" 2>/dev/null) || status=$?
	[ "$status" = 3 ] || fail "status $status, not a refusal: $answer"
	value error.code "$answer"
}

# lab_up [PORT...] makes the Vagrantfile's network namespace with one host, which counts what it receives and
# listens on the ports. It knows the way to this machine and no other: nobody has told it of the slots.
lab_up() {
	local listen=() port
	for port in "${@:-22}"; do listen+=("$lab:$port"); done
	lab_down
	trap lab_down EXIT
	"$vagrant/lab" up
	ip netns exec lab nft -f - <<-EOF
		table ip lab {
			counter received { }
			chain input { type filter hook prerouting priority 0; counter name received; }
		}
	EOF
	ip netns exec lab labtool listen "${listen[@]}" >/run/lab.out 2>&1 &
	echo $! >/run/lab.pid
	eventually 20 grep -q listening /run/lab.out
}

lab_down() {
	if [ -e /run/lab.pid ]; then
		kill "$(cat /run/lab.pid)" 2>/dev/null || true
		rm -f /run/lab.pid
	fi
	"$vagrant/lab" down
}
not() { ! "$@" >/dev/null 2>&1; }

# What a launcher may change of a machine: links and their filters, rules of the firewall, routing, settings of the kernel.
machine() {
	local family
	ip -o link show | awk '{print $2, $3}'
	nft list ruleset
	for family in -4 -6; do ip "$family" rule; ip "$family" route show table all; done
	sysctl -a --pattern '^net\.ipv[46]\.(conf\.|ip_forward)' 2>/dev/null
}

# The IPv4 packets that reached the lab host.
lab_received() { ip netns exec lab nft -j list counter ip lab received | labtool get 'nftables[1].counter.packets'; }

# settings NAME <TEXT adds a settings file and restarts both rooms; settings_gone NAME takes it back.
settings() {
	cat >"/etc/secmcpd/conf.d/$1.yaml"
	systemctl restart secmcpd-launcher.service secmcpd.service
}
settings_gone() {
	rm -f "/etc/secmcpd/conf.d/$1.yaml"
	systemctl restart secmcpd-launcher.service secmcpd.service
}

# hog_up [SETTINGS [hog-crowd]] puts the hostile scanner in nmap's place until the case ends; hog WHAT has
# alice start it, and prints the job. What it takes, the port says: see hog.c.
hog_up() {
	install -m 755 "/test/bin/${2-hog}" /usr/local/bin/hog
	agent alice
	accept_lacks
	local grace='shutdown: {grace: 0s}' # a case that ends need not wait for its scans
	case ${1-} in *shutdown:*) grace= ;; esac
	settings hog <<-EOF
		scanners: {nmap: /usr/local/bin/hog}
		breakers: {enabled: false}
		$grace
		${1-}
	EOF
	trap 'settings_gone hog' EXIT
}
hog() {
	local port
	case $1 in
	memory) port=1001 ;; processes) port=1002 ;; cpu) port=1003 ;; time) port=1004 ;;
	reads) port=1005 ;; writes) port=1006 ;; some-memory) port=1007 ;; crash) port=1008 ;; finds) port=1009 ;;
	*) fail "hog $1" ;;
	esac
	value job_id "$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [$port], \"wait_s\": 0}")"
}

# finding has alice start a scan that has found an open port when it goes on, and prints the job.
finding() {
	local job
	job=$(hog finds)
	eventually 20 runs "$job"
	eventually 20 grep -q 'portid="80"' "/var/lib/secmcpd-launcher/boxes/$job/stdout"
	echo "$job"
}

# kept JOB STATUS: it ended so, its result has what it had found and says that this is not all, and the audit log
# has its end.
kept() {
	local result
	ended "$1" >/dev/null
	result=$(call alice job_result "{\"job_id\": \"$1\"}")
	equal "status of the job" "$(value status "$result")" "$2"
	equal "what it had found" "$(value 'hosts[0].ports[0].port' "$result") $(value 'hosts[0].ports[0].state' "$result")" "80 open"
	equal "whether that is all" "$(value coverage.complete "$result")" false
	equal "ends in the audit log" "$(secmcpd audit show --job "$1" | grep -cE " (done|interrupted) job=$1 .* outcome=" || true)" 1
	contains "the audit log's chain" "$(secmcpd audit verify)" "chain intact"
}

# ended JOB waits for its end and prints the job.
ended() { call alice job_status "{\"job_id\": \"$1\", \"wait_s\": 45}"; }

# What holds boxes to their scopes: bpf, or nftables where the guest may not have BPF.
filter() { if journalctl -b -u secmcpd-launcher | grep -q "filter is nf_tables alone"; then echo nftables; else echo bpf; fi; }

# message_id EVENT, as the manual has it; entry EVENT [FIELD=VALUE...]: the last of them in the journal, as JSON.
message_id() { sed -n "s/^| \`$1\` | \`\([0-9a-f]*\)\` .*/\1/p" /usr/share/doc/secmcpd/docs/monitoring.md; }
entry() { journalctl --no-pager -o json "MESSAGE_ID=$(message_id "$1")" "${@:2}" | tail -n 1; }

# counted REASON: how many scans have ended by it, as node_exporter would read it.
counted() { awk -v reason="reason=\"$1\"" 'BEGIN {n = 0} index($1, "secmcpd_jobs_ended_total{" reason) == 1 {n += $2} END {print n}' /run/secmcpd-metrics/secmcpd.prom; }
counts() { [ "$(counted "$1")" -gt "$2" ]; }

# accept_lacks: a container has the kernel and the cgroup controllers of its host, and says so; a
# virtual machine has all, and must not need this.
accept_lacks() {
	if systemd-detect-virt --quiet --container && [ ! -e /etc/secmcpd/conf.d/container.yaml ]; then
		settings container <<<'accept_unenforced: [cgroup-cpu, cgroup-io, cgroup-memory, cgroup-pids, landlock]'
	fi
}

# reboots HOW: when this case has ended, whatever it has started goes down with the guest: "orderly" by
# systemd, "cut" as when the mains fail. The next case finds the guest started again.
reboots() { echo "$1" >/run/reboot; }

# figure NAME UNIT WHAT prints the median of the numbers on standard input, one a line, with the tenth and the
# ninetieth of a hundred and how many there were.
figure() {
	sort -g | awk -v name="$1" -v unit="$2" -v what="$3" '{v[NR] = $1} END {
		printf "BENCH %s %s %s %s (%s to %s, n=%d)\n", name, v[int((NR + 1) / 2)], unit, what, v[int(1 + (NR - 1) * 0.1)], v[int(1 + (NR - 1) * 0.9 + 0.5)], NR}'
}
# seconds COMMAND... prints how long it took; what it said goes to the log.
seconds() {
	local from
	from=$(now)
	"$@" >&2
	awk -v ms=$(($(now) - from)) 'BEGIN {printf "%.2f\n", ms / 1000}'
}
