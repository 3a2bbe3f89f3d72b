# From a connection to the listed tools, with both services stopped and with both there. The guest goes before all else
# on the machine meanwhile, which may have other work.
dpkg --status secmcpd >/dev/null 2>&1 || dpkg -i "$deb" >/dev/null
agent alice
accept_lacks
chrt --rr --pid 1 1
chrt --rr --pid 1 $$
trap 'chrt --other --pid 0 1' EXIT
# How long systemd takes for a service that does nothing, in the sandbox of each room, and in none.
bare() {
	sed -E '/^(ExecReload|ExecStopPost|Restart|RestartSec|Also|WatchdogSec)=/d; s/^Type=notify/Type=oneshot/; s#^ExecStart=.*#ExecStart=/bin/true#; /^(NoExecPaths|ExecPaths)=/d; /^\[Unit\]/,/^\[Service\]/{/^(Wants|Requires|After)/d}'"${2-}" \
		"/usr/lib/systemd/system/$1" >/etc/systemd/system/bare-"${3-$1}"
}
bare secmcpd.service
bare secmcpd-launcher.service
bare secmcpd.service '; /^\[Service\]/,/^\[Install\]/{/^(Type|ExecStart|\[)/!d}' nothing.service
systemctl daemon-reload
started() {
	local from
	from=$(date +%s%N)
	systemctl start "$@"
	awk -v ns=$(($(date +%s%N) - from)) 'BEGIN {printf "%.1f\n", ns / 1000000}'
}
cold=() front=() launcher_=() two=() none=()
for _ in $(seq 25); do
	systemctl stop secmcpd.service secmcpd-launcher.service 2>/dev/null
	sleep 0.5
	cold+=("$(as alice labtool listed 1)")
	front+=("$(started bare-secmcpd.service)")
	launcher_+=("$(started bare-secmcpd-launcher.service)")
	two+=("$(started bare-secmcpd.service bare-secmcpd-launcher.service)")
	none+=("$(started bare-nothing.service)")
done
printf '%s\n' "${cold[@]}" | figure activation_cold ms "connect to tools/list answered, both services stopped before"
printf '%s\n' "${front[@]}" | figure activation_front_bare ms "systemctl start of a service that does nothing, in the front's sandbox"
printf '%s\n' "${launcher_[@]}" | figure activation_launcher_bare ms "the same in the launcher's"
printf '%s\n' "${two[@]}" | figure activation_both_bare ms "both at once"
printf '%s\n' "${none[@]}" | figure activation_bare ms "the same in none"
rm /etc/systemd/system/bare-*.service
systemctl daemon-reload
sleep 2
warm=$(as alice labtool listed 200)
cut -d' ' -f1 <<<"$warm" | figure activation_warm ms "connect to tools/list answered, both services there"
cut -d' ' -f2 <<<"$warm" | figure activation_session ms "tools/list in a session that is there"
