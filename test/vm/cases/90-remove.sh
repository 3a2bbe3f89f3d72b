# Removed during a scan, nothing runs and no socket is left; what was written stays until the purge, users and groups, too. Installed
# again, the scan is told as interrupted, with what it had found.
hog_up
job=$(finding)
trap - EXIT # what it has set stays, as whatever an operator has
touch /var/log/secmcpd/audit-of-the-operator
known() { getent passwd secmcpd; getent group secmcpd secmcpd-agents secmcpd-admin; }
before=$(known)
dpkg --remove secmcpd
for unit in secmcpd-http.socket secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket secmcpd.service secmcpd-launcher.service; do
	refused active "$unit"
done
no_scanner || fail "a scanner lives on"
refused pgrep -x secmcpd
refused test -e /run/secmcpd
refused test -e /run/secmcpd-metrics
equal "links left" "$(ip -o link | grep -c secv || true)" 0
refused nft list table inet secmcpd
test -e /etc/secmcpd/secmcpd.yaml
test -e /var/log/secmcpd/audit-of-the-operator
equal "user and groups" "$(known)" "$before"
dpkg -i "$deb"
active secmcpd.socket
active secmcpd-front.socket
kept "$job" interrupted
settings_gone hog
