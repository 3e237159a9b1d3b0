package portal

import "net/http"

// softwarePath is the page of the updates.
const softwarePath = "/update"

// updatePages adds the page of the updates and what belongs to it.
func (p *Portal) updatePages(page func(pattern string, h http.HandlerFunc, params ...param)) {}
