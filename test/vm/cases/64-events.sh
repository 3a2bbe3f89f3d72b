# container only: what the cases before this one have brought about is in the journal, each event under its MESSAGE_ID,
# and journalctl -x explains it.
while read -r event unit; do
	said=$(entry "$event")
	test -n "$said" || fail "no $event in the journal"
	equal "SECMCPD_EVENT of $event" "$(value SECMCPD_EVENT "$said")" "$event"
	equal "unit of $event" "$(value _SYSTEMD_UNIT "$said")" "$unit.service"
	explained=$(journalctl --no-pager -x -n 1 "MESSAGE_ID=$(message_id "$event")")
	contains "what explains $event" "$explained" "-- Subject: "
	contains "what explains $event" "$explained" "-- Defined-By: secmcpd"
done <<-EVENTS
	started secmcpd-launcher
	stopping secmcpd-launcher
	engagements_read secmcpd-launcher
	scan_launched secmcpd-launcher
	scan_ended secmcpd-launcher
	scan_refused secmcpd-launcher
	scope_violation secmcpd-launcher
	scope_lost secmcpd-launcher
	front_lost secmcpd-launcher
	launcher_lost secmcpd
	config_reloaded secmcpd-launcher
	reload_refused secmcpd-launcher
	approval_asked secmcpd-launcher
	approval_given secmcpd-launcher
	approval_denied secmcpd-launcher
	tokens_read secmcpd-launcher
	login_failed secmcpd-launcher
EVENTS
