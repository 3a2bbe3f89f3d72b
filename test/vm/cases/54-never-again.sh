# containers and one machine: a launcher that is killed and not started again leaves nothing on the network: no link, no
# table, no rule of routing, and no interface that forwards.
hog_up
lab_up
trap 'rm -rf /run/systemd/system/secmcpd-launcher.service.d; systemctl daemon-reload; settings_gone hog; lab_down' EXIT
mkdir -p /run/systemd/system/secmcpd-launcher.service.d
printf '[Service]\nRestart=no\n' >/run/systemd/system/secmcpd-launcher.service.d/once.conf
systemctl daemon-reload
forwards() { cat /proc/sys/net/ipv4/conf/lab0/forwarding; }
equal "forwarding before" "$(forwards)" 0
job=$(finding)
equal "forwarding while it runs" "$(forwards)" 1
ip -o link | grep -q secv || fail "no link"
rules() { ip rule | grep -cE "secv|fwmark 0x5ec0de01" || true; }
[ "$(rules)" -gt 0 ] || fail "no rule of routing"
nft list table inet secmcpd >/dev/null
kill -9 "$(launcher)"
dead() { ! active secmcpd-launcher.service && [ "$(property secmcpd-launcher.service SubState)" = failed ]; }
eventually 10 dead
no_scanner || fail "a scanner lives on"
equal "links left" "$(ip -o link | grep -c secv || true)" 0
equal "rules of routing left" "$(rules)" 0
equal "routes left" "$(ip route show table all | grep -cE 'table 15904[0-9]{5}' || true)" 0
refused nft list table inet secmcpd
equal "forwarding afterwards" "$(forwards)" 0
systemctl start secmcpd-launcher.service
kept "$job" interrupted
