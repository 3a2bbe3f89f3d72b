# rpm installs it: users, exactly the sockets that the presets enable, no running service.
refused id -u secmcpd
machine >/run/machine-before # for 91-all-gone
rpm --install --nodeps "$rpm" # its database is empty
equal "what was installed otherwise than packaged" "$(rpm --verify --nodeps secmcpd)" ""
id -u secmcpd
for group in secmcpd-agents secmcpd-admin; do getent group "$group"; done
for unit in secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket; do
	equal "$unit" "$(systemctl is-enabled "$unit") $(property "$unit" ActiveState)" "enabled active"
done
equal "secmcpd-http.socket" "$(systemctl is-enabled secmcpd-http.socket || true) $(property secmcpd-http.socket ActiveState)" "disabled inactive"
equal "what is enabled" "$(find /etc/systemd/system -type l -name 'secmcpd*' -printf '%f\n' | sort -u | grep -v guest | tr '\n' ' ')" \
	"secmcpd-admin.socket secmcpd-bell.socket secmcpd-front.socket secmcpd-launcher-admin.socket secmcpd.socket "
for unit in secmcpd.service secmcpd-launcher.service; do
	refused active "$unit" # until the first client
done
equal "the file of metrics" "$(stat -c '%a %U' /run/secmcpd-metrics/secmcpd.prom)" "644 secmcpd"
contains "the catalogue" "$(journalctl --list-catalog)" secmcpd
