# What no engagement allows is refused, and nothing of it reaches the network.
agent alice
accept_lacks
lab_up 22
sleep 1 # the launcher follows this machine's addresses, of which there is one more now
before=$(lab_received)
equal "this machine" "$(refusal alice nmap_scan "{\"targets\": [\"$outside\"]}")" target_never
equal "a stranger" "$(refusal alice nmap_scan '{"targets": ["8.8.8.8"]}')" target_out_of_scope
sed "/^exclude: \[\]/c exclude: [$lab]" /etc/secmcpd/engagements.d/private-lab.yaml >/tmp/private-lab.yaml
cp /etc/secmcpd/engagements.d/private-lab.yaml /tmp/kept.yaml
trap 'cp /tmp/kept.yaml /etc/secmcpd/engagements.d/private-lab.yaml; systemctl restart secmcpd-launcher.service; lab_down' EXIT
cp /tmp/private-lab.yaml /etc/secmcpd/engagements.d/private-lab.yaml
systemctl restart secmcpd-launcher.service
equal "an excluded host" "$(refusal alice nmap_scan "{\"targets\": [\"$lab\"]}")" target_excluded
equal "packets that reached the lab" "$(lab_received)" "$before"
