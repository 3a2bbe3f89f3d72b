# Installed again, by what the Vagrantfile's Alma runs, it is as on the first day.
"$vagrant/install" "$rpm" --nodeps
equal "what was installed otherwise than packaged" "$(rpm --verify --nodeps secmcpd)" ""
active secmcpd.socket
agent bob
accept_lacks
lab_up 22
answer=$(call bob nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}")
equal "status" "$(value status "$answer")" completed
