# The first connection starts both services, and an agent in the group scans.
agent alice
outsider mallory
call alice capabilities '{}' >/dev/null
eventually 40 active secmcpd-launcher.service
refused as mallory secmcpd connect </dev/null
accept_lacks
lab_up 22
answer=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22, 23], \"wait_s\": 45}")
equal "status" "$(value status "$answer")" completed
equal "open ports" "$(value summary.open_ports "$answer")" 1
