package session

import (
	"bufio"
	"context"
	"errors"
	"io"
)

func (s *Speaker) serveLines(context.Context, io.ReadWriteCloser, *bufio.Reader, uint32) error {
	return errors.New("newline JSON is not spoken yet")
}
