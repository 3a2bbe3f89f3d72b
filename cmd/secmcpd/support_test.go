package main

import "testing"

// What a unit says in the environment or as a credential is left out, however many lines it has.
func TestSecretsOfUnitsAreLeftOut(t *testing.T) {
	for text, want := range map[string]string{
		"Environment=A=secret\nUser=x\n":                                      "Environment=(left out)\nUser=x\n",
		" SetCredential = token:secret\n":                                     " SetCredential =(left out)\n",
		"Environment=A=secret \\\n  B=secret \\\n# why\n  C=secret\nUser=x\n": "Environment=(left out)\nUser=x\n",
		"EnvironmentFile=/etc/x\n":                                            "EnvironmentFile=/etc/x\n",
	} {
		if got := string(withoutSecrets([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A line of the log is given away without what callers wrote.
func TestLinesOfTheLogAreGivenAwayWithoutWordsOfCallers(t *testing.T) {
	for line, want := range map[string]string{
		"Nov 28 21:54:16 host secmcpd[1]: a breaker has opened breaker=192.0.2.0/24 why=timeout": "Nov 28 21:54:16 host secmcpd[1]: a breaker has opened breaker=(left out) why=timeout",
		"breaker=2001:db8:1:2::/64 from=closed":                                                  "breaker=(left out) from=closed",
		`scan correlation="ticket \"17\"" job=a`:                                                 `scan correlation=(left out) job=a`,
		"scan correlation=ticket-17 job=a":                                                       "scan correlation=(left out) job=a",
	} {
		if got := string(withoutWords([]byte(line))); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
