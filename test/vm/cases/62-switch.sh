# container only: secmcpd.socket is the switch of all: what is done to it is done to the other sockets, and the services stop with it.
agent alice
accept_lacks
trap 'rm -f /run/come; systemctl disable --quiet secmcpd-http.socket; systemctl enable --quiet --now secmcpd.socket' EXIT
sockets="secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket"
services="secmcpd.service secmcpd-launcher.service"
are() {
	local want=$1 unit state
	shift
	for unit; do
		state=$(systemctl is-active "$unit" || true)
		[ "$state" = "$want" ] || { echo "$unit is $state, want $want"; return 1; }
	done
}
enabled() { for unit in $sockets; do systemctl is-enabled "$unit" || true; done | sort -u | tr '\n' ' '; }
answers() { call alice capabilities '{}' >/dev/null; }
# shellcheck disable=SC2086 # words
{
	answers
	are active $sockets $services

	# Clients that come again and again start nothing that was stopped.
	touch /run/come
	(while [ -e /run/come ]; do call alice capabilities '{}' || sleep 0.05; done) >/dev/null 2>&1 &
	clients=$!
	systemctl stop secmcpd.socket
	are inactive $sockets $services
	sleep 1
	are inactive $sockets $services
	rm /run/come
	wait "$clients"
	equal "what is left to connect to" "$(ls /run/secmcpd)" ""
	equal "failed units" "$(systemctl list-units --failed --plain --no-legend 'secmcpd*')" ""

	systemctl start secmcpd.socket
	are active $sockets
	are inactive $services secmcpd-http.socket
	answers
	are active $services

	systemctl restart secmcpd.socket
	are active $sockets
	answers

	# Whichever service is started by hand brings the sockets.
	for service in $services; do
		systemctl stop secmcpd.socket
		systemctl start "$service"
		are active $sockets
		answers
	done

	systemctl disable --quiet --now secmcpd.socket
	equal "after disable" "$(enabled)" "disabled "
	are inactive $sockets $services
	for unit in secmcpd.socket secmcpd.service secmcpd-launcher.service; do
		systemctl enable --quiet "$unit"
		equal "after enable of $unit" "$(enabled)" "enabled "
		systemctl disable --quiet "$unit"
		equal "after disable of $unit" "$(enabled)" "disabled "
	done

	# HTTP, where it is enabled, comes and goes with the others.
	systemctl enable --quiet secmcpd-http.socket
	systemctl enable --quiet --now secmcpd.socket
	are active $sockets secmcpd-http.socket
	answers
	systemctl stop secmcpd.socket
	are inactive $sockets $services secmcpd-http.socket
	systemctl disable --quiet secmcpd-http.socket

	# What the preset says, on a machine that is new.
	systemctl preset --quiet secmcpd-http.socket $sockets
	equal "after preset" "$(enabled)" "enabled "
	equal "HTTP after preset" "$(systemctl is-enabled secmcpd-http.socket || true)" disabled
}
