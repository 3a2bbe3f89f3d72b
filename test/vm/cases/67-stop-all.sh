# container only: sockets and services are all stopped during a scan: it ends, nothing of it and of them is left; with the
# sockets back, the job is interrupted with what it had found, and the next scan works.
hog_up
job=$(finding)
mapfile -t sockets < <(systemctl list-units --plain --no-legend --state=active 'secmcpd*.socket' | cut -d' ' -f1)
equal "how many sockets there are" "${#sockets[@]}" 5
systemctl stop "${sockets[@]}" secmcpd.service secmcpd-launcher.service
no_scanner || fail "a scanner lives on"
no_box || fail "a box is left"
refused pgrep -x secmcpd
equal "links left" "$(ip -o link | grep -c secv || true)" 0
refused nft list table inet secmcpd
refused as alice secmcpd connect </dev/null
sleep 2
for unit in "${sockets[@]}" secmcpd.service secmcpd-launcher.service; do refused active "$unit"; done
systemctl start "${sockets[@]}"
kept "$job" interrupted
equal "reason" "$(value end.reason "$(ended "$job")")" shutdown
job=$(hog time)
eventually 20 runs "$job"
