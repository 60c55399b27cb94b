module local/flux-source-controller

go 1.26

require github.com/fluxcd/source-controller v1.7.0
