module local/flux-helm-controller

go 1.26

require github.com/fluxcd/helm-controller v1.4.0
