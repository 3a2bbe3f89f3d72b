package runners

import "strings"

// A script is one of nmap's own, read before it was put here. Names that are not in this table are refused, and no
// category is ever passed on: a category is whatever the installed nmap says it is, and "safe" and "default" hold
// scripts that ask third parties or add targets.
//
// Kept out by rule, and by a test against the installed script.db: external, broadcast, dos, exploit, brute, malware and
// fuzzer; scripts that write files, add targets, or run before any host does. Kept out by judgement: scripts that log
// in with guessed accounts, that have the target ask somebody else (ftp-bounce, dns-recursion), or that do nothing
// without script arguments.
type script struct {
	name      string
	intrusive bool // policy must allow it
	standard  bool // one of the set that profiles script and thorough run
	reason    string
}

var scripts = []script{
	{"address-info", false, true, "reads the address itself, sends nothing"},
	{"ajp-methods", false, true, "one OPTIONS request"},
	{"amqp-info", false, true, "reads what the server says of itself"},
	{"banner", false, false, "connects and listens"},
	{"cassandra-info", false, true, "asks for cluster name and version"},
	{"couchdb-databases", false, false, "one GET for the names of databases"},
	{"daytime", false, false, "asks for the time"},
	{"dns-nsid", false, true, "asks the server for its own identity"},
	{"epmd-info", false, true, "asks for registered Erlang nodes"},
	{"finger", false, true, "asks for the users who are logged in"},
	{"ftp-anon", false, true, "one anonymous login and a listing"},
	{"ftp-syst", false, true, "SYST and STAT"},
	{"http-apache-server-status", false, false, "GET /server-status"},
	{"http-auth", false, true, "reads the authentication that the root asks for"},
	{"http-cookie-flags", false, true, "reads the cookies of the root"},
	{"http-cors", false, true, "OPTIONS requests with an Origin"},
	{"http-date", false, false, "reads the Date header"},
	{"http-enum", true, false, "asks for some two thousand paths"},
	{"http-errors", true, false, "follows links and provokes errors"},
	{"http-favicon", false, true, "one GET"},
	{"http-generator", false, true, "reads the generator tag of the root"},
	{"http-git", false, true, "GET of a few files under /.git"},
	{"http-headers", false, false, "one HEAD"},
	{"http-internal-ip-disclosure", false, false, "one request without a Host header"},
	{"http-methods", false, true, "one OPTIONS request"},
	{"http-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"http-robots.txt", false, true, "one GET"},
	{"http-security-headers", false, false, "one HEAD"},
	{"http-server-header", false, false, "reads the Server header"},
	{"http-svn-info", false, true, "one PROPFIND"},
	{"http-title", false, true, "one GET of the root"},
	{"http-trace", true, false, "sends TRACE, which intrusion detection reports"},
	{"http-waf-detect", true, false, "sends requests that look like attacks"},
	{"http-webdav-scan", false, true, "OPTIONS and PROPFIND"},
	{"ike-version", false, true, "begins a key exchange"},
	{"imap-capabilities", false, true, "CAPABILITY"},
	{"imap-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"ipmi-version", false, false, "asks for channel capabilities"},
	{"irc-info", false, true, "connects, asks for statistics, leaves"},
	{"iscsi-info", false, true, "a login without an account, to learn the targets"},
	{"ldap-rootdse", false, false, "reads the root entry"},
	{"memcached-info", false, false, "stats"},
	{"mongodb-info", false, true, "serverStatus and buildInfo"},
	{"ms-sql-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"mysql-info", false, true, "reads the greeting"},
	{"nbstat", false, true, "one NetBIOS name query"},
	{"nfs-showmount", false, false, "asks for the export list"},
	{"nntp-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"ntp-info", false, true, "asks for time and variables"},
	{"ntp-monlist", true, false, "asks for the list of peers, an amplifier's query"},
	{"oracle-tns-version", false, false, "asks the listener for its version"},
	{"pop3-capabilities", false, true, "CAPA"},
	{"pop3-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"rdp-enum-encryption", false, false, "tries each security layer, about twenty connections"},
	{"rdp-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"redis-info", false, false, "INFO"},
	{"rpcinfo", false, true, "asks the portmapper for its list"},
	{"rsa-vuln-roca", true, false, "checks the key of a certificate for a known weakness"},
	{"rsync-list-modules", false, false, "asks for the list of modules"},
	{"rtsp-methods", false, true, "one OPTIONS request"},
	{"sip-methods", false, true, "one OPTIONS request"},
	{"smb-enum-domains", true, false, "lists domains and their password policy over a null session"},
	{"smb-enum-shares", true, false, "lists shares and tries to write to them"},
	{"smb-enum-users", true, false, "lists accounts, also by counting through identifiers"},
	{"smb-os-discovery", false, true, "begins a session with no account"},
	{"smb-protocols", false, false, "negotiates each dialect"},
	{"smb-security-mode", false, true, "reads the negotiated security"},
	{"smb-vuln-ms17-010", true, false, "one transaction that a vulnerable server answers differently"},
	{"smb2-capabilities", false, false, "negotiates each dialect"},
	{"smb2-security-mode", false, true, "reads the negotiated security"},
	{"smb2-time", false, true, "reads the server's time"},
	{"smtp-commands", false, true, "EHLO and HELP"},
	{"smtp-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"snmp-info", false, true, "one SNMPv3 request without an account"},
	{"snmp-sysdescr", false, true, "one read with the community public"},
	{"ssh-auth-methods", true, false, "begins a login with a random name to learn the methods"},
	{"ssh-hostkey", false, true, "asks for each host key"},
	{"ssh2-enum-algos", false, false, "reads the offered algorithms"},
	{"sshv1", false, true, "reads the greeting"},
	{"ssl-ccs-injection", true, false, "sends a message out of order"},
	{"ssl-cert", false, true, "one handshake"},
	{"ssl-date", false, true, "one handshake"},
	{"ssl-dh-params", true, false, "several handshakes, reported as a vulnerability check"},
	{"ssl-enum-ciphers", true, false, "a handshake for each cipher, hundreds of connections"},
	{"ssl-heartbleed", true, false, "reads up to 16 KiB of a vulnerable server's memory"},
	{"ssl-poodle", true, false, "handshakes with SSLv3"},
	{"sslv2", false, true, "one SSLv2 hello"},
	{"telnet-encryption", false, false, "asks for the encryption option"},
	{"telnet-ntlm-info", false, true, "begins an NTLM exchange with no account"},
	{"tls-alpn", false, true, "a handshake for each protocol"},
	{"tls-nextprotoneg", false, true, "one handshake"},
	{"vnc-info", false, true, "reads version and security types"},
	{"x11-access", false, true, "one connection without an account"},
	{"xmpp-info", false, true, "opens a stream and reads its features"},
}

// roaming are the scripts that send to other ports than the one that was scanned: they run for a host
// and not for a port of it, or go where a service sends them.
var roaming = []string{
	"ftp-anon", "http-security-headers", "ms-sql-ntlm-info", "nbstat", "nfs-showmount", "rpcinfo", "smb-enum-domains", "smb-enum-shares", "smb-enum-users",
	"smb-os-discovery", "smb-protocols", "smb-security-mode", "smb-vuln-ms17-010", "smb2-capabilities", "smb2-security-mode", "smb2-time",
}

func scriptNamed(name string) (script, bool) {
	for _, s := range scripts {
		if s.name == name {
			return s, true
		}
	}
	return script{}, false
}

func unknownScript(name string) bool {
	_, known := scriptNamed(name)
	return !known
}

// scriptsLike are the scripts whose names begin with the same word: those for the same service.
func scriptsLike(name string) []string {
	word, _, _ := strings.Cut(name, "-")
	return scriptNames(func(s script) bool {
		first, _, _ := strings.Cut(s.name, "-")
		return word != "" && first == word
	})
}

func scriptNames(keep func(script) bool) []string {
	names := []string{}
	for _, s := range scripts {
		if keep(s) {
			names = append(names, s.name)
		}
	}
	return names
}

func anyScript(script) bool        { return true }
func standardScript(s script) bool { return s.standard && !s.intrusive }
