# What is resident of the rooms after a scan, and when nobody is there any more.
dpkg --status secmcpd >/dev/null 2>&1 || dpkg -i "$deb" >/dev/null
agent alice
accept_lacks
lab_up 22
kib() { awk -v what="$1:" '$1 == what {print $2}' "/proc/$2/$3"; }
size() { # NAME PID
	echo "BENCH resident_$1 $(($(kib VmRSS "$2" status) / 1024)) MiB and $(($(kib Pss "$2" smaps_rollup) / 1024)) of them if what processes share is shared out"
}
settings idle <<<'front: {idle_exit: 3s}'
call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}" >/dev/null
size launcher "$(launcher)"
size front "$(property secmcpd.service MainPID)"
gone() { [ "$(property secmcpd.service MainPID)" = 0 ]; }
eventually 20 gone
echo "BENCH resident_front_idle $(pgrep -c -u secmcpd || true) processes of the front, $(kib VmRSS "$(launcher)" status) KiB of the launcher"
size launcher_alone "$(launcher)"
settings_gone idle
