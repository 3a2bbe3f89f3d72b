# Purged, nothing is left but users: a uid that could own files somewhere is not given away.
touch /etc/secmcpd/engagements.d/of-the-operator.yaml
dpkg --purge secmcpd
for path in /var/lib/secmcpd /var/lib/secmcpd-launcher /var/log/secmcpd /run/secmcpd /run/secmcpd-metrics /var/lib/prometheus /usr/bin/secmcpd \
	/etc/secmcpd/secmcpd.yaml /etc/systemd/system/sockets.target.wants/secmcpd.socket; do
	refused test -e "$path"
done
# Whatever else bears the name: state of the scripts, links of units, catalogue, the link for node_exporter.
equal "what is left" "$(find / /run -xdev -name '*secmcpd*' ! -path '/test/*' ! -name '*secmcpd-guest*' | sort -u)" /etc/secmcpd
equal "what is left of the catalogue" "$(journalctl --list-catalog | grep -c secmcpd || true)" 0
test -e /etc/secmcpd/engagements.d/of-the-operator.yaml
equal "failed units" "$(systemctl list-units --failed --plain --no-legend 'secmcpd*')" ""
