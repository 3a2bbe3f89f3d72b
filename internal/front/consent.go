package front

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// Some scans start only once the user of the agent has confirmed them. The launcher says which, and
// refuses those that nobody has confirmed:
//
//	call ──► launcher: confirmation_needed ──► the client asks its user, and keeps what it is to be asked for, sealed
//	call again, with answer and seal ──► launcher, with the consent, which is on its record
//
// It is the caller's consent and no operator's approval: a client may answer for its user.

// consentTerm is how long a user may take.
const consentTerm = 10 * time.Minute

// askedFor is what a confirmation is for.
type askedFor struct {
	UID     uint32    `json:"uid"`
	Tool    string    `json:"tool"`
	Value   [32]byte  `json:"value"` // the hash of the arguments in canonical form
	Consent string    `json:"consent"`
	Until   time.Time `json:"until"`
}

func newSealer() (cipher.AEAD, error) {
	var key [32]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

const consentSeal = "secmcpd: a scan to be confirmed"

// canAsk says whether the client can put a form before its user.
func canAsk(r *mcp.CallToolRequest) bool {
	c := r.ClientCapabilities()
	return c != nil && c.Elicitation != nil && (c.Elicitation.Form != nil || c.Elicitation.URL == nil)
}

// askConsent has the client ask its user. Nothing has been started.
func (f *front) askConsent(ctx context.Context, s *session, tool, profile string, then []string, value []byte, refusal *wire.Refusal) (any, error) {
	reply, err := f.ask(ctx, func(seq uint64) wire.Message {
		return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: s.client.Handle, Value: value}}
	})
	if err != nil {
		return nil, err
	}
	if reply.Preview == nil || len(reply.Preview.Verdict.Confirm) == 0 {
		return nil, refused{Refusal: refusal} // it has changed meanwhile
	}
	v := reply.Preview.Verdict
	plain := encode(askedFor{s.client.UID, tool, sha256.Sum256(value), v.Engagement + "@" + v.Revision, time.Now().Add(consentTerm)})
	state := base64.RawURLEncoding.EncodeToString(f.sealer.Seal(nil, nil, plain, []byte(consentSeal)))
	form := json.RawMessage(`{"type":"object","properties":{"confirm":{"type":"boolean","title":"Start this scan"}},"required":["confirm"]}`)
	return &mcp.CallToolResult{Content: []mcp.Content{}, RequestState: state, // nil would be told as null, which is no list
		InputRequests: mcp.InputRequestMap{"confirm": &mcp.ElicitParams{Mode: "form", Message: question(tool, profile, then, v), RequestedSchema: form}}}, nil
}

// question is what the user is asked, in words of ours alone.
func question(tool, profile string, then []string, v wire.Verdict) string {
	names := ""
	if n := len(v.Unresolved); n > 0 {
		names = fmt.Sprintf(" and those of %d names", n)
	}
	after := ""
	if len(then) > 0 {
		after = " (and then: " + strings.Join(then, "; ") + ")"
	}
	return fmt.Sprintf("Start this scan? %s with profile %s%s on %d addresses%s under engagement %s, with at most %d packets per second for at most %d seconds. The engagement has it confirmed because of: %s.",
		tool, profile, after, v.AddressCount, names, v.Engagement, v.Rate, v.LimitS, strings.Join(v.Confirm, ", "))
}

func notConfirmed(reason string) *wire.Refusal {
	return &wire.Refusal{Code: "not_confirmed", Reason: reason + "; nothing was started", Hint: "call again without an answer, and the user is asked"}
}

// consented is the consent that a call brings; empty for none. One that is not whole, late, another
// user's or for something else refuses the call.
func (f *front) consented(s *session, p *mcp.CallToolParamsRaw, tool string, value []byte) (string, *wire.Refusal) {
	if p.RequestState == "" && len(p.InputResponses) == 0 {
		return "", nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(p.RequestState)
	if err != nil {
		return "", notConfirmed("what was to be confirmed is not as it was sent")
	}
	plain, err := f.sealer.Open(nil, nil, sealed, []byte(consentSeal))
	var a askedFor
	if err != nil || json.Unmarshal(plain, &a) != nil {
		return "", notConfirmed("what was to be confirmed is not as it was sent")
	}
	answer, _ := p.InputResponses["confirm"].(*mcp.ElicitResult)
	switch {
	case a.UID != s.client.UID, a.Tool != tool, a.Value != sha256.Sum256(value):
		return "", notConfirmed("the answer is to another question")
	case time.Now().After(a.Until):
		return "", notConfirmed("the answer came too late")
	case answer == nil, answer.Action != "accept", answer.Content["confirm"] != true:
		return "", &wire.Refusal{Code: "not_confirmed", Reason: "the user did not confirm the scan; nothing was started", Hint: "ask the user what to do instead"}
	}
	return a.Consent, nil
}
