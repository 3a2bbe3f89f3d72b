# container only: an administrator who disabled a socket finds it disabled after an upgrade.
systemctl disable secmcpd.socket
dpkg -i "$deb" # a downgrade is an upgrade to the scripts
equal "secmcpd.socket" "$(systemctl is-enabled secmcpd.socket || true)" disabled
systemctl enable secmcpd.socket
