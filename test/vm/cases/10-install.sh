# The package installs where nothing but its dependencies is: users, sockets, no running service.
refused id -u secmcpd
machine >/var/tmp/machine-before # for 91-purge
"$vagrant/install" "$deb"
id -u secmcpd
for group in secmcpd-agents secmcpd-admin; do getent group "$group"; done
for unit in secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket; do
	equal "$unit" "$(systemctl is-enabled "$unit") $(property "$unit" ActiveState)" "enabled active"
done
equal "secmcpd-http.socket" "$(systemctl is-enabled secmcpd-http.socket || true) $(property secmcpd-http.socket ActiveState)" "disabled inactive"
equal "bell.sock" "$(stat -c '%a %U:%G' /run/secmcpd/bell.sock)" "660 root:secmcpd"
equal "mcp.sock" "$(stat -c '%a %U:%G' /run/secmcpd/mcp.sock)" "660 root:secmcpd-agents"
equal "front.sock" "$(stat -c '%a %U:%G' /run/secmcpd/front.sock)" "600 root:root"
for socket in admin launcher-admin; do
	equal "$socket.sock" "$(stat -c '%a %U:%G' "/run/secmcpd/$socket.sock")" "660 root:secmcpd-admin"
done
equal "/run/secmcpd" "$(stat -c '%a %U:%G' /run/secmcpd)" "755 root:root"
for unit in secmcpd.service secmcpd-launcher.service; do
	refused active "$unit" # until the first client
done
for path in /etc/secmcpd /etc/secmcpd/conf.d /etc/secmcpd/engagements.d /etc/secmcpd/runners.d; do
	equal "$path" "$(stat -c '%a %U:%G' "$path")" "755 root:root"
done
equal "the file of metrics" "$(stat -c '%a %U' /run/secmcpd-metrics/secmcpd.prom)" "644 secmcpd"
equal "where node_exporter looks" "$(readlink -f /var/lib/prometheus/node-exporter/secmcpd.prom)" /run/secmcpd-metrics/secmcpd.prom
secmcpd version
