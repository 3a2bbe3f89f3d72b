# Installed again after a purge, it is as on the first day, and a scan runs.
dpkg -i "$deb"
active secmcpd.socket
refused test -e /etc/secmcpd/engagements.d/of-the-operator.yaml
refused test -e /etc/secmcpd/conf.d/container.yaml
agent bob
accept_lacks
lab_up 22
answer=$(call bob nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22, 23], \"wait_s\": 45}")
equal "status" "$(value status "$answer")" completed
