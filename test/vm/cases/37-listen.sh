# container only: where systemd makes no sockets, as in a container, each room makes its own, with the capabilities of its unit.
agent alice
outsider mallory
accept_lacks
sockets=(secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket)
over() {
	systemctl stop by-hand-launcher.service by-hand-front.service 2>/dev/null || true # stopped already, at the end
	rm -rf /run/secmcpd/front
	systemctl start "${sockets[@]}"
	lab_down
}
lab_up 22
trap over EXIT
# Whoever starts a room by hand where systemd has the sockets takes them from nobody.
before=$(ls -i /run/secmcpd)
for room in "launcher --listen" "serve --listen"; do
	# shellcheck disable=SC2086 # words
	said=$(timeout 20 secmcpd $room 2>&1) && fail "a second room began: $room"
	contains "$room" "$said" "somebody listens there"
done
equal "the sockets" "$(ls -i /run/secmcpd)" "$before"
call alice capabilities '{}' >/dev/null
systemctl stop "${sockets[@]}" secmcpd-launcher.service secmcpd.service
install -d -m 2755 -o secmcpd -g secmcpd-admin /run/secmcpd/front
where=(-E SECMCPD_FRONT_SOCKET=/run/secmcpd/front/front.sock -E SECMCPD_ADMIN_SOCKET=/run/secmcpd/front/admin.sock)
systemd-run --quiet --collect --unit=by-hand-front "${where[@]}" --uid=secmcpd --gid=secmcpd -p NoNewPrivileges=yes -p CapabilityBoundingSet= -p PrivateNetwork=yes \
	secmcpd serve --listen --http 127.0.0.1:8765
systemd-run --quiet --collect --unit=by-hand-launcher "${where[@]}" -p NoNewPrivileges=yes -p Delegate=yes -p "CapabilityBoundingSet=$(property secmcpd-launcher.service CapabilityBoundingSet)" \
	secmcpd launcher --listen
result=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}") || fail "$result"
equal "status" "$(value status "$result")" completed
equal "open ports" "$(value summary.open_ports "$result")" 1
for socket in "mcp.sock root:secmcpd-agents" "bell.sock root:secmcpd" "launcher-admin.sock root:secmcpd-admin" \
	"front/front.sock secmcpd:secmcpd-admin" "front/admin.sock secmcpd:secmcpd-admin"; do
	equal "${socket% *}" "$(stat -c '%a %U:%G' "/run/secmcpd/${socket% *}")" "660 ${socket#* }"
done
refused as mallory secmcpd connect </dev/null
equal "HTTP, inside" "$(nsenter --net -t "$(property by-hand-front.service MainPID)" ss -Hltn sport = :8765 | wc -l)" 1
systemctl kill --signal=KILL by-hand-launcher.service # what is left of its sockets is no hindrance
eventually 10 not active by-hand-launcher.service
systemd-run --quiet --collect --unit=by-hand-launcher "${where[@]}" -p NoNewPrivileges=yes -p Delegate=yes secmcpd launcher --listen
result=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}") || fail "$result"
equal "status" "$(value status "$result")" completed
systemctl stop by-hand-launcher.service by-hand-front.service
equal "sockets left" "$(find /run/secmcpd -type s)" ""
