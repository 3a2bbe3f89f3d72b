# container only: a front that idles ends and comes back under a stream of agents and operators, and none of them is lost; nor is one
# while the rooms are restarted.
agent alice
usermod --append --groups secmcpd-admin alice
accept_lacks
settings idle <<<'front: {idle_exit: 1s}'
trap 'settings_gone idle; gpasswd --delete alice secmcpd-admin >/dev/null' EXIT
ends() { journalctl --no-pager --since "$begun" -u secmcpd.service -o cat | grep -c "nothing is under way: the front ends" || true; }
said=$(as alice labtool stream 10 25 1100ms)
echo "$said, after $(ends) ends of the front"
equal "answered" "$(value answered "$said")" 270
equal "cut off" "$(value again "$said")" 0
[ "$(ends)" -ge 4 ] || fail "the front ended $(ends) times"
# What is cut off by a restart comes again and is answered; nobody finds a socket that is gone.
launcher=$(launcher)
as alice labtool stream 10 22 200ms >/tmp/stream &
for unit in secmcpd.service secmcpd-launcher.service secmcpd.service; do
	sleep 0.7
	systemctl try-restart "$unit"
done
wait $!
echo "$(cat /tmp/stream), while both rooms were restarted"
equal "answered" "$(value answered "$(cat /tmp/stream)")" 240
[ "$(launcher)" != "$launcher" ] || fail "the launcher was not restarted"
# Nothing is resident of a front that idles.
gone() { [ "$(property secmcpd.service MainPID)" = 0 ] && ! pgrep -u secmcpd >/dev/null; }
eventually 10 gone
active secmcpd-launcher.service
active secmcpd-front.socket
