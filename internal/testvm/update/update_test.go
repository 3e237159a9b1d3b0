package update

import (
	"testing"

	"cloudlink.local/gateway/internal/testvm"
	"cloudlink.local/gateway/internal/update"
)

func TestM4UpdateAndRollback(t *testing.T) {
	one, two := Release(t, "1.0.0"), Release(t, "1.1.0")
	repo := NewRepo(t)
	repo.Publish(two, nil)
	g := Boot(t, one, testvm.Options{})
	g.Use(repo.URL(), nil)
	g.Do("install")
	a := g.Ended(1)
	t.Logf("%+v", a)
	if a.State != update.Confirmed {
		t.Fatalf("%s: %s %s", a.State, a.Reason, a.Detail)
	}
	g.Running("1.1.0", "b")
}
