module github.com/secmcpd/secmcpd

go 1.26
