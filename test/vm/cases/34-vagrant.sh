# What the Vagrantfile's machines run after the installation works: the lab, and a user's first scan.
accept_lacks
trap '"$vagrant/lab" down' EXIT
"$vagrant/lab" up
"$vagrant/lab" listen 22 80
said=$("$vagrant/first-scan" vagrant 2>&1) || fail "$said"
echo "$said"
contains "the scan" "$said" "2 open"
"$vagrant/lab" down
refused ip link show lab0
refused systemctl is-active secmcpd-lab.service
"$vagrant/lab" down # once more harms nothing
