# container only: HTTP is off; switched on it serves whoever bears a token, as its user, and the front ends when nobody
# needs it and comes back with the next request.
agent alice
accept_lacks
lab_up 22
at=http://127.0.0.1:8765
refused labtool http $at/healthz
made=$(secmcpd http token new alice)
token=$(grep '^secmcpd_' <<<"$made")
install -m 600 /dev/null /etc/secmcpd/http-tokens
sed -n '/^tokens:/,$p' <<<"$made" >/etc/secmcpd/http-tokens
echo "front: {idle_exit: 2s}" >/etc/secmcpd/conf.d/idle.yaml
switched_off() {
	lab_down
	rm -rf /etc/secmcpd/http-tokens /etc/secmcpd/conf.d/idle.yaml /etc/systemd/system/secmcpd-http.socket.d /etc/credstore/http-tokens
	systemctl daemon-reload
	systemctl disable --now secmcpd-http.socket
	systemctl restart secmcpd.service secmcpd-launcher.service
}
trap switched_off EXIT
systemctl enable secmcpd-http.socket
systemctl stop secmcpd.service
systemctl start secmcpd-http.socket
result=$(labtool remote $at/mcp "$token" nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}") || fail "$result"
equal "open ports" "$(value summary.open_ports "$result")" 1
contains "audit log" "$(tail -n 3 /var/log/secmcpd/audit.jsonl)" "\"uid\":$(id -u alice),"
contains "without a token" "$(labtool http $at/events)" "401 "
contains "another host" "$(labtool http $at/events "$token" Host=attacker.example)" "403 "
contains "a page" "$(labtool http $at/events "$token" Origin=http://attacker.example)" "403 "

# It ends when nobody needs it, and the next request starts it.
gone() { ! active secmcpd.service; }
eventually 20 gone
equal "how it ended" "$(property secmcpd.service Result)" success
result=$(labtool remote $at/mcp "$token" capabilities '{}') || fail "$result"
contains "after the end" "$result" private-lab

# What systemd keeps as a credential counts, too.
mkdir -p /etc/credstore
made=$(secmcpd http token new bin)
sed -n 's/^tokens:/&/p; /^  - /p' <<<"$made" >/etc/credstore/http-tokens
grep -q '^tokens:' /etc/credstore/http-tokens || sed -i '1i tokens:' /etc/credstore/http-tokens
chmod 600 /etc/credstore/http-tokens
systemctl restart secmcpd-launcher.service
result=$(labtool remote $at/mcp "$(grep '^secmcpd_' <<<"$made")" capabilities '{}') || fail "$result"

# Taken back, it is nobody's.
echo 'tokens: []' >/etc/secmcpd/http-tokens
sleep 3
contains "taken back" "$(labtool http $at/events "$token")" "401 "

# Beyond this machine there is nothing without a token.
rm /etc/credstore/http-tokens
mkdir /etc/systemd/system/secmcpd-http.socket.d
printf '[Socket]\nListenStream=\nListenStream=0.0.0.0:8765\nIPAddressAllow=any\n' >/etc/systemd/system/secmcpd-http.socket.d/beyond.conf
systemctl daemon-reload
systemctl restart secmcpd-launcher.service
systemctl stop secmcpd.service
systemctl restart secmcpd-http.socket
for address in 127.0.0.1 "$outside"; do
	contains "at $address" "$(labtool http "http://$address:8765/events" 2>&1 || true)" "503 "
done
contains "journal" "$(journalctl -b -u secmcpd)" "no token is in force"
