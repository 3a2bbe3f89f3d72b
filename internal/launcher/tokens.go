package launcher

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// Tokens name callers that come over HTTP, where the kernel names nobody. Root's files have the hash
// of each and whose it is; the front hands over what a request bears, and hears who that is.

const (
	maxTokenFile = 64 << 10 // bytes
	maxTokens    = 256      // of all files
)

// tokensFile is a file of tokens as it is written.
type tokensFile struct {
	Tokens []tokenEntry `yaml:"tokens"`
}

type tokenEntry struct {
	User   string   `yaml:"user"`   // name, or number
	SHA256 string   `yaml:"sha256"` // of the token's text, in hexadecimal digits
	For    []string `yaml:"for"`    // of wire.TokenUses; none: MCP
	Root   bool     `yaml:"root"`   // the user may be root
}

// Token is one that is in force.
type Token struct {
	hash [sha256.Size]byte
	user wire.Client // whose it is: uid, gid, groups
	For  []string
}

func (t Token) is(use string) bool { return slices.Contains(t.For, use) }

// same says whether two tokens are one, and whose it is has not changed.
func (t Token) same(o Token) bool {
	return t.hash == o.hash && t.user.UID == o.user.UID && t.user.GID == o.user.GID && slices.Equal(t.user.Groups, o.user.Groups) && slices.Equal(t.For, o.For)
}

// Tokens reads every token of the files; one that is not there has none. never says why a user is no
// caller. With a fault no token of any file is good: whoever takes one back and mistypes something
// else has taken it back.
func Tokens(paths []string, never func(uid uint32) error) ([]Token, error) {
	var tokens []Token
	var faults strict.Faults
	seen := map[[sha256.Size]byte]string{}
	for _, path := range paths {
		data, err := readSecret(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			faults = append(faults, strict.Fault{File: path, Line: 1, Field: "file", Got: err.Error(),
				Allowed: "a regular file, owned by root and not to be read by others", Hint: "chown root " + path + " && chmod 600 " + path})
			continue
		}
		found, wrong := parseTokens(path, data, never, seen)
		faults = append(faults, wrong...)
		tokens = append(tokens, found...)
		if len(tokens) > maxTokens {
			faults = append(faults, strict.Fault{File: path, Line: 1, Field: "tokens", Got: fmt.Sprintf("%d tokens", len(tokens)), Allowed: fmt.Sprintf("at most %d in all", maxTokens)})
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return tokens, nil
}

// CheckToken says what would be wrong with a file of tokens.
func CheckToken(text string, never func(uid uint32) error) error {
	_, faults := parseTokens("the line", []byte(text), never, map[[sha256.Size]byte]string{})
	return faults.Err()
}

// parseTokens reads one file. seen is where each hash was first, in all files.
func parseTokens(path string, data []byte, never func(uid uint32) error, seen map[[sha256.Size]byte]string) (tokens []Token, faults strict.Faults) {
	var f tokensFile
	lines, faults := strict.Decode(path, data, &f)
	for i, e := range f.Tokens {
		at := strict.Index("tokens", i)
		if slices.ContainsFunc([]string{at, at + ".user", at + ".sha256", at + ".for", at + ".root"}, lines.Bad) {
			continue
		}
		t, wrong := e.token(func(field, got, allowed, hint string) strict.Fault {
			return lines.Fault(at+"."+field, got, allowed, hint)
		}, never)
		if first, twice := seen[t.hash]; len(wrong) == 0 && twice {
			wrong = append(wrong, lines.Fault(at+".sha256", strict.Quote(e.SHA256), "a token that is listed once", "it is "+first+" already"))
		}
		seen[t.hash] = path + " " + at
		faults = append(faults, wrong...)
		tokens = append(tokens, t)
	}
	return tokens, faults
}

// token is the one that an entry describes.
func (e tokenEntry) token(at faultAt, never func(uid uint32) error) (t Token, faults strict.Faults) {
	hash, err := hex.DecodeString(e.SHA256)
	if err != nil || len(hash) != sha256.Size || e.SHA256 != strings.ToLower(e.SHA256) {
		faults = append(faults, at("sha256", strict.Quote(e.SHA256), "64 hexadecimal digits", "`secmcpd http token new USER` prints the line"))
	}
	copy(t.hash[:], hash)
	t.For = e.For
	if len(t.For) == 0 {
		t.For = []string{wire.ForMCP}
	}
	for _, use := range t.For {
		if !slices.Contains(wire.TokenUses, use) {
			faults = append(faults, at("for", strict.Quote(use), strings.Join(wire.TokenUses, ", "), ""))
		}
	}
	t.user, err = userNamed(e.User)
	switch {
	case err != nil:
		faults = append(faults, at("user", strict.Quote(e.User), "a user of this machine, by name or number", err.Error()))
	case t.user.UID == 0 && !e.Root:
		faults = append(faults, at("user", strict.Quote(e.User), "a user other than root", "root: true beside it, if this has to be"))
	case never(t.user.UID) != nil:
		faults = append(faults, at("user", strict.Quote(e.User), "a user who can be a caller", never(t.user.UID).Error()))
	}
	return t, faults
}

// faultAt makes a fault of a field.
type faultAt func(field, got, allowed, hint string) strict.Fault

// userNamed is a user as the local files have it. A number that is nobody's there stands for itself,
// and for the group of that number.
func userNamed(name string) (wire.Client, error) {
	find := user.Lookup
	number, err := strconv.ParseUint(name, 10, 32)
	isNumber := err == nil
	if isNumber {
		find = user.LookupId
	}
	u, err := find(name)
	if isNumber && err != nil {
		return wire.Client{UID: uint32(number), GID: uint32(number)}, nil
	}
	if err != nil {
		return wire.Client{}, errors.New("there is no such user in /etc/passwd")
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	groups, err3 := u.GroupIds()
	if err := errors.Join(err, err2, err3); err != nil || len(groups) > maxGroups {
		return wire.Client{}, errors.New("its groups cannot be told")
	}
	c := wire.Client{UID: uint32(uid), GID: uint32(gid)}
	for _, g := range groups {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return wire.Client{}, errors.New("its groups cannot be told")
		}
		c.Groups = append(c.Groups, uint32(n))
	}
	return c, nil
}

// readSecret is readTrusted of what others may not read either.
func readSecret(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o)", path, info.Mode().Perm())
	}
	return readTrusted(path, maxTokenFile)
}

// Never says why a uid is no caller; nil: it may be one.
func (c *Config) Never(uid uint32) error {
	if uid == c.FrontUID && !c.stdio() {
		return fmt.Errorf("uid %d is the front: it is never a caller", uid)
	}
	if c.isSlotUID(uid) {
		return fmt.Errorf("uid %d belongs to a box: it is never a caller", uid)
	}
	return nil
}

// logins is the tokens in force and what is asked of them.
type logins struct {
	paths    []string
	never    func(uint32) error
	failures *rate.Limiter

	mu     sync.Mutex
	stamp  string
	tokens []Token
	err    error // why none is good
	failed int   // since it was last told
	told   time.Time
}

// How many tokens that are nobody's are answered as that: so many, then so many a second.
const (
	failuresBurst     = 20
	failuresPerSecond = 1
)

// look reads the files again if they, or this machine's users, have changed.
func (o *logins) look() (tokens []Token, changed bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	stamp := ""
	for _, path := range slices.Concat(o.paths, []string{"/etc/passwd", "/etc/group"}) {
		if info, err := os.Lstat(path); err == nil {
			stamp += stampOf(info) + fmt.Sprint(info.Mode(), ownerOf(info)) + "\n"
		} else {
			stamp += err.Error() + "\n"
		}
	}
	if stamp == o.stamp {
		return o.tokens, false, o.err
	}
	o.stamp = stamp
	before, beforeErr := o.tokens, o.err
	o.tokens, o.err = Tokens(o.paths, o.never)
	changed = fmt.Sprint(beforeErr) != fmt.Sprint(o.err) || !slices.EqualFunc(before, o.tokens, Token.same)
	return o.tokens, changed, o.err
}

// count is how many tokens are in force.
func (o *logins) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.tokens)
}

// tokensNow are the tokens in force. With a change, handles of those that are not any more are ended.
func (l *Launcher) tokensNow() []Token {
	tokens, changed, err := l.logins.look()
	if !changed {
		return tokens
	}
	r := observability.Record{Event: observability.TokensRead, Records: len(tokens)}
	if err != nil {
		r.Reason = clip(err.Error())
		l.log.Error("no token of HTTP is good until this is mended", journal.Key, journal.TokensFaulty, "faults", err)
	} else {
		l.log.Info("tokens of HTTP read", journal.Key, journal.TokensRead, "count", len(tokens))
	}
	l.note(r)
	l.stateChanged()
	for _, handle := range l.bearers(func(t Token) bool { return !slices.ContainsFunc(tokens, t.same) }) {
		l.disconnect(handle)
	}
	return tokens
}

// bearers are the handles of clients by token whose token is so.
func (l *Launcher) bearers(so func(Token) bool) (handles []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for h, c := range l.clients {
		if c.token != nil && so(*c.token) {
			handles = append(handles, h)
		}
	}
	return handles
}

// login finds who bears a token. Each token is compared, wherever it is found.
func (l *Launcher) login(m wire.Login) (*wire.LoggedIn, *wire.Refusal) {
	hash := sha256.Sum256([]byte(m.Token))
	var found *Token
	for _, t := range l.tokensNow() {
		if subtle.ConstantTimeCompare(t.hash[:], hash[:]) == 1 {
			found = &t
		}
	}
	if found == nil {
		return nil, l.loginFailed(time.Now())
	}
	if known := l.bearers(found.same); len(known) > 0 {
		return l.loggedIn(known[0])
	}
	if wait := l.looks.allow(found.user.UID, 1, time.Now()); wait > 0 {
		return nil, &wire.Refusal{Code: "too_many_logins", Reason: "too many logins in a short time", Hint: "ask again in a few seconds", Retryable: true, RetryAfterS: wholeSeconds(wait)}
	}
	c := &client{Client: found.user, token: found, introduced: true, met: true}
	if err := l.register(c); err != nil {
		l.log.Warn("client refused", "why", err)
		return nil, &wire.Refusal{Code: "busy", Reason: "this user, or all together, have as many connections as there can be", Hint: "ask again when some have ended", Retryable: true}
	}
	return l.loggedIn(c.Handle)
}

func (l *Launcher) loggedIn(handle uint64) (*wire.LoggedIn, *wire.Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[handle]
	if c == nil {
		return nil, gone()
	}
	return &wire.LoggedIn{Client: c.Client, For: c.token.For}, nil
}

// The codes of refusals of a token.
const (
	loginFailed   = "login_failed"
	tooManyFailed = "too_many_failed_logins"
)

// loginFailed counts a token that is nobody's and refuses it.
func (l *Launcher) loginFailed(now time.Time) *wire.Refusal {
	l.logins.mu.Lock()
	l.logins.failed++
	l.logins.mu.Unlock()
	l.tellFailed(now, false)
	if !l.logins.failures.AllowN(now, 1) {
		return &wire.Refusal{Code: tooManyFailed, Reason: "too many tokens that are nobody's", Hint: "ask again in a few seconds", Retryable: true}
	}
	return &wire.Refusal{Code: loginFailed, Reason: "the token is nobody's", Hint: "the operator makes one with `secmcpd http token new USER`"}
}

// tellFailed logs and audits tokens that were nobody's: the first at once, then how many there were, once a
// minute. What was sent is not in it.
func (l *Launcher) tellFailed(now time.Time, all bool) {
	o := &l.logins
	o.mu.Lock()
	count := o.failed
	if count == 0 || !all && now.Sub(o.told) < unheardEvery {
		o.mu.Unlock()
		return
	}
	o.failed, o.told = 0, now
	o.mu.Unlock()
	l.log.Warn("logins over HTTP with a token that is nobody's", journal.Key, journal.LoginFailed, "count", count)
	l.note(observability.Record{Event: observability.LoginFailed, Records: count, Reason: fmt.Sprintf("%d logins over HTTP with a token that is nobody's", count)})
}
