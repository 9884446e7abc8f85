// Package zipkinexporter sends traces to a Zipkin server. What a span of OTLP is in Zipkin's terms is said by the
// Collector's own translator; here it is only posted. (The Collector's own exporter is not published as a module.)
package zipkinexporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/zipkin/zipkinv2"
	"github.com/openzipkin/zipkin-go/proto/zipkin_proto3"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Config says where the server is: the whole URL, for example http://127.0.0.1:9411/api/v2/spans.
type Config struct {
	Endpoint string `mapstructure:"endpoint"`
}

// Validate is called by the Collector before anything is started.
func (config *Config) Validate() error {
	at, err := url.Parse(config.Endpoint)
	if err != nil || at.Host == "" || (at.Scheme != "http" && at.Scheme != "https") {
		return fmt.Errorf("endpoint: %q is no URL of a Zipkin server", config.Endpoint)
	}
	return nil
}

// NewFactory makes the component `zipkin`.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(component.MustNewType("zipkin"),
		func() component.Config { return &Config{} },
		exporter.WithTraces(create, component.StabilityLevelStable))
}

func create(ctx context.Context, settings exporter.Settings, config component.Config) (exporter.Traces, error) {
	sender := &sender{endpoint: config.(*Config).Endpoint, client: &http.Client{Timeout: 10 * time.Second}}
	return exporterhelper.NewTraces(ctx, settings, config, sender.send,
		exporterhelper.WithQueue(configoptional.Some(exporterhelper.NewDefaultQueueConfig())),
		exporterhelper.WithRetry(configretry.NewDefaultBackOffConfig()))
}

type sender struct {
	endpoint   string
	client     *http.Client
	translator zipkinv2.FromTranslator
}

func (sender *sender) send(ctx context.Context, traces ptrace.Traces) error {
	spans, err := sender.translator.FromTraces(traces)
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	body, err := zipkin_proto3.SpanSerializer{}.Serialize(spans)
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, sender.endpoint, bytes.NewReader(body))
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	response, err := sender.client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the Zipkin server answers %s", response.Status)
	}
	return nil
}
