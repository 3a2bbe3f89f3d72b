# A restart with a box alive: the launcher ends it and comes back, again and again; its job is told as interrupted, with
# what it had found. systemd before 254 could not start a service whose cgroup had others below it.
hog_up
for _ in 1 2; do
	job=$(finding)
	begun_ms=$(now)
	systemctl restart secmcpd-launcher.service
	echo "restarted in $(($(now) - begun_ms)) ms"
	no_scanner || fail "a scanner lives on"
	no_box || fail "a box is left"
	hold secmcpd-launcher.service 1
done
kept "$job" interrupted
equal "reason" "$(value end.reason "$(ended "$job")")" shutdown
