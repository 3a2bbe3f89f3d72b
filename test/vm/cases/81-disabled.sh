# container only: an administrator who disabled a socket finds it disabled after an upgrade, and stopped if it was.
systemctl disable secmcpd.socket
systemctl stop secmcpd.socket secmcpd-launcher.service secmcpd.service # they would start it
dpkg -i "$deb" # a downgrade is an upgrade to the scripts
equal "secmcpd.socket" "$(systemctl is-enabled secmcpd.socket || true)" disabled
refused active secmcpd.socket
systemctl enable --now secmcpd.socket
