package wire

// Stop ends a job, whoever's it is. It is answered with the job's record as it was, and the job ends as
// cancelled by an operator.
type Stop struct {
	Job string `cbor:"job"`
}

// Stopped is a job that is being ended.
type Stopped struct {
	Job   string `cbor:"job" json:"job_id"`
	UID   uint32 `cbor:"uid" json:"uid"`
	Tool  string `cbor:"tool" json:"tool"`
	State string `cbor:"state" json:"state"` // as it was: queued, running
}
