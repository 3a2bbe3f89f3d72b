# container only: faulty settings keep the services from starting and cost no socket; mended, they start by
# themselves.
echo 'scans: {at_once: none}' >/etc/secmcpd/conf.d/wrong.yaml
trap 'rm -f /etc/secmcpd/conf.d/wrong.yaml; systemctl restart secmcpd.service secmcpd-launcher.service' EXIT
refused systemctl restart secmcpd-launcher.service
contains "log" "$(journalctl --no-pager -o cat -u secmcpd-launcher.service -n 20)" "wrong.yaml:1: scans.at_once"
sleep 4
active secmcpd.socket
active secmcpd-front.socket
rm /etc/secmcpd/conf.d/wrong.yaml
eventually 10 active secmcpd-launcher.service
