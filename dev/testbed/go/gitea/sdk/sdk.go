// Package gitea stands in for gitea.dev/sdk, which the Go module proxy does not serve.
//
// Gitea imports it only to migrate repositories from another Gitea (services/migrations/gitea_downloader.go). Each type
// and call that this needs is passed on to the SDK's last release under its former name, which takes no context.
package gitea

import (
	"context"

	"code.gitea.io/sdk/gitea"
)

type (
	APISettings               = gitea.GlobalAPISettings
	Attachment                = gitea.Attachment
	ClientOption              = gitea.ClientOption
	Comment                   = gitea.Comment
	Issue                     = gitea.Issue
	Label                     = gitea.Label
	ListIssueCommentOptions   = gitea.ListIssueCommentOptions
	ListIssueOption           = gitea.ListIssueOption
	ListIssueReactionsOptions = gitea.ListIssueReactionsOptions
	ListLabelsOptions         = gitea.ListLabelsOptions
	ListMilestoneOption       = gitea.ListMilestoneOption
	ListOptions               = gitea.ListOptions
	ListPullRequestsOptions   = gitea.ListPullRequestsOptions
	ListPullReviewsOptions    = gitea.ListPullReviewsOptions
	ListReleasesOptions       = gitea.ListReleasesOptions
	ListRepoTopicsOptions     = gitea.ListRepoTopicsOptions
	Milestone                 = gitea.Milestone
	PullRequest               = gitea.PullRequest
	PullReview                = gitea.PullReview
	PullReviewComment         = gitea.PullReviewComment
	Reaction                  = gitea.Reaction
	Release                   = gitea.Release
	Repository                = gitea.Repository
	Response                  = gitea.Response
)

const (
	IssueTypeIssue = gitea.IssueTypeIssue
	StateAll       = gitea.StateAll
)

var (
	SetBasicAuth  = gitea.SetBasicAuth
	SetHTTPClient = gitea.SetHTTPClient
	SetToken      = gitea.SetToken
)

// Client groups the calls as the newer SDK does.
type Client struct {
	Issues       issues
	PullRequests pullRequests
	Releases     releases
	Repositories repositories
	Settings     settings
	client       *gitea.Client
}

type (
	issues       struct{ *gitea.Client }
	pullRequests struct{ *gitea.Client }
	releases     struct{ *gitea.Client }
	repositories struct{ *gitea.Client }
	settings     struct{ *gitea.Client }
)

func NewClient(url string, options ...ClientOption) (*Client, error) {
	c, err := gitea.NewClient(url, options...)
	if err != nil {
		return nil, err
	}
	return &Client{issues{c}, pullRequests{c}, releases{c}, repositories{c}, settings{c}, c}, nil
}

func (c *Client) CheckServerVersionConstraint(_ context.Context, constraint string) error {
	return c.client.CheckServerVersionConstraint(constraint)
}

func (s settings) GetGlobalAPISettings(context.Context) (*APISettings, *Response, error) {
	return s.Client.GetGlobalAPISettings()
}

func (s repositories) GetRepo(_ context.Context, owner, repo string) (*Repository, *Response, error) {
	return s.Client.GetRepo(owner, repo)
}

func (s repositories) ListRepoTopics(_ context.Context, owner, repo string, o ListRepoTopicsOptions) ([]string, *Response, error) {
	return s.Client.ListRepoTopics(owner, repo, o)
}

func (s repositories) ListMilestones(_ context.Context, owner, repo string, o ListMilestoneOption) ([]*Milestone, *Response, error) {
	return s.Client.ListRepoMilestones(owner, repo, o)
}

func (s repositories) ListRepoLabels(_ context.Context, owner, repo string, o ListLabelsOptions) ([]*Label, *Response, error) {
	return s.Client.ListRepoLabels(owner, repo, o)
}

func (s releases) GetReleaseAttachment(_ context.Context, owner, repo string, release, id int64) (*Attachment, *Response, error) {
	return s.Client.GetReleaseAttachment(owner, repo, release, id)
}

func (s releases) ListReleases(_ context.Context, owner, repo string, o ListReleasesOptions) ([]*Release, *Response, error) {
	return s.Client.ListReleases(owner, repo, o)
}

func (s issues) ListIssueReactions(_ context.Context, owner, repo string, index int64, o ListIssueReactionsOptions) ([]*Reaction, *Response, error) {
	return s.Client.ListIssueReactions(owner, repo, index, o)
}

func (s issues) GetIssueCommentReactions(_ context.Context, owner, repo string, comment int64) ([]*Reaction, *Response, error) {
	return s.Client.GetIssueCommentReactions(owner, repo, comment)
}

func (s issues) ListRepoIssues(_ context.Context, owner, repo string, o ListIssueOption) ([]*Issue, *Response, error) {
	return s.Client.ListRepoIssues(owner, repo, o)
}

func (s issues) ListIssueComments(_ context.Context, owner, repo string, index int64, o ListIssueCommentOptions) ([]*Comment, *Response, error) {
	return s.Client.ListIssueComments(owner, repo, index, o)
}

func (s pullRequests) ListRepoPullRequests(_ context.Context, owner, repo string, o ListPullRequestsOptions) ([]*PullRequest, *Response, error) {
	return s.Client.ListRepoPullRequests(owner, repo, o)
}

func (s pullRequests) ListPullReviews(_ context.Context, owner, repo string, index int64, o ListPullReviewsOptions) ([]*PullReview, *Response, error) {
	return s.Client.ListPullReviews(owner, repo, index, o)
}

func (s pullRequests) ListPullReviewComments(_ context.Context, owner, repo string, index, id int64) ([]*PullReviewComment, *Response, error) {
	return s.Client.ListPullReviewComments(owner, repo, index, id)
}
